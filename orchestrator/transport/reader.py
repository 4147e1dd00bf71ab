"""The reading connection's commands and replies: what a channel asks Redis for next, and what a reply holds.

Nothing here sends or waits; the channel does.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

from orchestrator.core.clock import to_ms
from orchestrator.core.keys import DOORBELL, GROUP, RETURNED, Keys
from orchestrator.transport.claim_ahead import ClaimAhead
from orchestrator.transport.claim_buffer import Buffered
from orchestrator.transport.liveness.claim import Claim
from orchestrator.transport.liveness.isolation import is_last_chance
from orchestrator.transport.mailbox_entry import read_death_history, with_lineage
from orchestrator.transport.options import Options
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.scripts import sha

#: What was asked of Redis, hence which kind of reply comes.
_CLAIM, _SLEEP, _NUDGE = "claim", "sleep", "nudge"

#: The claim script's reply to an incarnation without a lease.
_NO_LEASE = -2

#: From here down, a reply's first number says that a mailbox is on hold.
_ON_HOLD = -10

#: Entries of a reader's caches: keys of claims, of which a list of mailboxes has one for each turn; and parts of the
#: names of streams, of which a mailbox has up to ten.
_MOST_CLAIM_KEYS, _MOST_STREAMS = 64, 1024

#: Longest sleep of a reader one of whose mailboxes is on hold, when it does not wait at its other streams either, or is
#: one that only the leader of an election claims from.
_ON_HOLD_SLEEP_MS = 200


class NoLease(Exception):
    """The claim was refused: the incarnation has no lease any more."""


class Reader:
    """Remembers what was asked for. Asks for messages while there are some, and sleeps in Redis when there are none."""

    def __init__(self, keys: Keys, levels: Sequence[str], options: Options) -> None:
        self._keys = keys
        self._levels = levels
        self._max_deaths = int(options.max_deaths)
        self._asked = ""
        self._asked_queues: Sequence[str] = ()
        self._asked_credit = 0
        #: Whether the last claim found no message, and the ms until the next delayed one is due (-1: there is none).
        self.is_empty = False
        self.due_ms = -1
        #: Whether one of the mailboxes was on hold.
        self.is_on_hold = False
        #: The mailboxes that only the leader of an election may claim from, which this one is not.
        self.withheld: frozenset[str] = frozenset()
        #: The mailboxes whose agents limit how many of their messages run at a time.
        self.limited: frozenset[str] = frozenset()
        #: How many messages are claimed beyond the free slots; ``None`` if none ever are.
        self.ahead = ClaimAhead(int(options.batch)) if options.claim_ahead else None
        self._block_s = float(options.block_s)
        #: Whether no mailbox of the last claim has anything that only a claim looks at.
        self._may_stay_asleep = False
        #: By the monotonic clock, when the last command was sent, and the last claim, and when that was answered.
        self._asked_at = self._claimed_at = self._claim_answered_at = float("-inf")
        #: What a claim of these mailboxes names; it is the same from claim to claim.
        self._claim_keys: dict[tuple[str, ...], list[str]] = {}
        #: By the name of a stream as it is in a reply: the name as text, its level and its mailbox.
        self._parts: dict[bytes, tuple[str, str, str]] = {}

    def forget(self) -> None:
        """No reply is expected any more."""
        self._asked = ""
        self.is_empty = False

    # -- commands

    def nudge(self) -> tuple[Any, ...]:
        """A command whose reply comes at once, because messages are here already."""
        self._asked = _NUDGE
        return ("PING",)

    def sleep(self, streams: Sequence[str], incarnation: str, longest_ms: int) -> tuple[Any, ...]:
        """The command that sleeps in Redis until a message comes, a delayed one is due, or the time is over."""
        self._asked = _SLEEP
        self._drained()
        if self.withheld:
            # The same of these alone; not their doorbells either, which are for the leader.
            streams = [stream for stream in streams if self._queue_of(stream) not in self.withheld]
            longest_ms = min(longest_ms, _ON_HOLD_SLEEP_MS)
        if self.limited:
            # Only a claim knows whether a message may run.
            bells = self._keys.stream("", DOORBELL)
            streams = [one for one in streams if one.startswith(bells) or self._queue_of(one) not in self.limited]
            longest_ms = min(longest_ms, _ON_HOLD_SLEEP_MS)
        if self.is_on_hold:
            # A read at the streams would claim.
            streams = [stream for stream in streams if stream.startswith(self._keys.stream("", DOORBELL))]
            longest_ms = min(longest_ms, _ON_HOLD_SLEEP_MS)
        self._asked_at = monotonic()
        sleep_ms = longest_ms
        if self.due_ms >= 0:
            left_ms = self.due_ms - to_ms(self._asked_at - self._claim_answered_at)
            sleep_ms = max(1, min(longest_ms, left_ms))
        if not streams:
            return "BLPOP", self._keys.wake(""), sleep_ms / 1000
        return (
            "XREADGROUP", "GROUP", GROUP, incarnation, "COUNT", 1, "BLOCK", sleep_ms,
            "STREAMS", *streams, *[">"] * len(streams),
        )  # fmt: skip

    def claim(
        self, queues: Sequence[str], incarnation: str, credit: int, ahead: int, *, leased: bool
    ) -> tuple[Any, ...]:
        """The command that claims up to ``credit`` messages to deliver now, and ``ahead`` more."""
        self._asked, self._asked_queues, self._asked_credit = _CLAIM, queues, credit
        self._asked_at = self._claimed_at = monotonic()
        self._drained()
        return self.claim_command(queues, incarnation, credit, ahead, leased=leased)

    def claim_command(
        self, queues: Sequence[str], incarnation: str, credit: int, ahead: int = 0, *, leased: bool
    ) -> tuple[Any, ...]:
        """As :meth:`claim`, for a connection of which nothing is remembered."""
        asked = tuple(queues)
        if len(self._claim_keys) > _MOST_CLAIM_KEYS:
            self._claim_keys.clear()
        names = self._claim_keys.get(asked)
        if names is None:
            names = self._claim_keys[asked] = commands.claim_keys(self._keys, queues, self._levels)
        script, keys, args = commands.claim(
            self._keys, queues, self._levels, incarnation, credit, ahead=ahead, leased=leased, names=names
        )
        return "EVALSHA", sha(script), len(keys), *keys, *args

    @property
    def _stride(self) -> int:
        """The number of keys of a claim that belong to one mailbox."""
        return len(self._levels) + 2

    def _queue_of(self, stream: str) -> str:
        return stream.removeprefix(f"{self._keys.root}q:").split(":", 1)[1]

    def _drained(self) -> None:
        if self.ahead is not None:
            self.ahead.drained(monotonic())

    # -- replies

    @property
    def claimed_from(self) -> Sequence[str]:
        """The mailboxes that the last command claims from; none if it was no claim."""
        return self._asked_queues if self._asked == _CLAIM else ()

    @property
    def slept(self) -> bool:
        """Whether the last reply was to a sleep, which may bring one message of each stream, whatever is allowed."""
        return self._asked == _SLEEP

    def read(self, reply: Any) -> tuple[list[Buffered], list[tuple[str, Any]]]:
        """The messages in a reply, and the doorbells, as stream and entry id, which are to be removed.

        Raises:
            NoLease: the incarnation was fenced.
        """
        if self._asked == _CLAIM and reply is not None:
            claimed = self.read_claimed(reply, self._asked_queues)
            for claim, _ in claimed[self._asked_credit :]:
                claim.ahead = True
            self._claim_answered_at = monotonic()
            self._may_stay_asleep = not isinstance(reply[0], list)
            wait_ms, *withheld = reply[:1] if self._may_stay_asleep else reply[0]
            self.withheld = frozenset(self._asked_queues[(base - 2) // self._stride] for base in withheld if base > 0)
            self.limited = frozenset(self._asked_queues[(-base - 2) // self._stride] for base in withheld if base < 0)
            self.is_on_hold = int(wait_ms) < _ON_HOLD + 2
            self.due_ms = _ON_HOLD - int(wait_ms) if self.is_on_hold else int(wait_ms)
            self.is_empty = len(reply) == 1
            return claimed, []
        if self._asked == _SLEEP:
            claimed, doorbells = self._read_slept(reply)
            self.is_empty = bool(claimed) and not doorbells and self._may_sleep_on(claimed)
            return claimed, doorbells
        return [], []

    def _may_sleep_on(self, claimed: list[Buffered]) -> bool:
        """Whether to sleep again after a sleep that has brought messages, without a claim that would find nothing more.

        So it is if the message was waited for: one that lay there already, which Redis answers as soon as a claim, is
        often the first of many.
        """
        now = monotonic()
        waited_s, claim_took_s = now - self._asked_at, self._claim_answered_at - self._claimed_at
        return (
            self._may_stay_asleep
            and waited_s > claim_took_s
            and now - self._claimed_at < self._block_s
            and not any(claim.came_back for claim, _ in claimed)
        )

    def count_claimed(self, count: int) -> None:
        """``count`` messages of the last reply are here; how soon they are delivered decides what is claimed ahead."""
        if self.ahead is not None:
            self.ahead.claimed(count, monotonic())

    def read_claimed(self, reply: list[Any], queues: Sequence[str]) -> list[Buffered]:
        """The messages in a reply to a claim from these queues.

        Raises:
            NoLease: the incarnation was fenced.
        """
        if reply[0] == _NO_LEASE:
            raise NoLease
        claimed = []
        for at in range(1, len(reply), 4):
            index, entry, raw, death_history = reply[at : at + 4]
            # Lua counts from 1, and the first key is the lease's.
            queue_number, place = divmod(index - 2, self._stride)
            queue = queues[queue_number]
            stream = self._keys.stream(queue, self._levels[place - 2])
            claimed.append(self._claimed(stream, queue, entry, raw, death_history))
        return claimed

    def _read_slept(self, reply: Any) -> tuple[list[Buffered], list[tuple[str, Any]]]:
        claimed: list[Buffered] = []
        doorbells: list[tuple[str, Any]] = []
        # RESP3 answers with a mapping, RESP2 with pairs.
        pairs = reply.items() if isinstance(reply, dict) else reply or ()
        for raw_stream, entries in pairs:
            stream, level, queue = self._parts_of(raw_stream)
            if entries and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], list):
                entries = entries[0]
            for entry, flat in entries:
                if level == DOORBELL:
                    doorbells.append((stream, entry))
                    continue
                if type(flat) is list and len(flat) == 2 and flat[0] == b"m":
                    # A message and nothing else, as most are.
                    claimed.append(self._claimed(stream, queue, entry, flat[1], b""))
                    continue
                values = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
                raw = values.get(b"m", b"")
                death_history = b""
                if len(values) > 1:
                    undelivered = b"n" if b"n" in values else b""
                    death_history = b"%s%s %s" % (undelivered, values.get(b"u", b""), values.get(b"d", b""))
                    raw = with_lineage(raw, values.get(b"r", b""))
                claimed.append(self._claimed(stream, queue, entry, raw, death_history))
        return claimed, doorbells

    def _parts_of(self, raw_stream: bytes) -> tuple[str, str, str]:
        """A stream's name, its level and its mailbox."""
        known = self._parts.get(raw_stream)
        if known is None:
            if len(self._parts) > _MOST_STREAMS:
                self._parts.clear()
            stream = raw_stream.decode()
            level, queue = stream.removeprefix(f"{self._keys.root}q:").split(":", 1)
            known = self._parts[raw_stream] = stream, level, queue
        return known

    def _claimed(self, stream: str, queue: str, entry: bytes, raw: bytes, death_history: bytes) -> Buffered:
        entry_id = entry.decode()
        claim = Claim(f"{entry_id}@{stream}", entry_id, stream, queue, 0, size=len(raw))
        undelivered = death_history.startswith(b"n")
        claim.came_back = not undelivered and stream.startswith(f"{self._keys.root}q:{RETURNED}")
        death_history = death_history[1:] if undelivered else death_history
        if death_history:
            history = read_death_history(death_history)
            claim.deaths = history.deaths
            claim.death_list = death_history.partition(b" ")[2] if claim.deaths else b""
            claim.last_chance = is_last_chance(
                deaths=history.counted, unattributed_deaths=history.unattributed, max_deaths=self._max_deaths
            )
        return claim, raw
