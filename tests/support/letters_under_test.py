"""A dead-letter log in Redis or in memory, in which a test adds letters, handles replays and moves the clock."""

from __future__ import annotations

import base64
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.core.admission.flow_policy import Flow, Mailbox
from orchestrator.core.deliveries.fingerprint import fingerprint
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.errors import MailboxFull
from orchestrator.core.keys import GROUP, Keys, indexed, levels_of
from orchestrator.deadletters.edit import Validate
from orchestrator.deadletters.in_memory.store import InMemoryDeadLetterStore
from orchestrator.deadletters.letter import DIMENSIONS, DeadLetter
from orchestrator.deadletters.log import DeadLetters
from orchestrator.deadletters.redis.store import RedisDeadLetterStore
from orchestrator.transport.admission.flow_control import declare_flow
from orchestrator.transport.mailbox_entry import decode, with_lineage
from orchestrator.transport.options import Options
from orchestrator.transport.redis import commands
from orchestrator.transport.store import Store
from tests.support.patient_redis import patient_redis

LEVELS = levels_of((0, 3, 6, 9))
QUEUE = "billing"


def wire_message(
    number: int,
    agent: str = QUEUE,
    name: str = "Charge",
    *,
    task: str = "",
    body: Any = None,
    kwargs: Any = None,
    metadata: Any = None,
) -> bytes:
    """A message as it lies in its mailbox after two failed attempts."""
    args = [] if kwargs else [body or {"order_id": "o1", "cents": 5}]
    headers: dict[str, Any] = {"task": task or f"{agent}.{name}", "id": f"d{number}", "retries": 2}
    if agent:
        wire = Supervision(agent=agent, message=name, metadata=metadata or {}).to_wire()
        headers["orc"] = {**wire, "failures": [{"attempt": 1}]}
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps([args, kwargs or {}, {}]).encode()).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": headers,
            "properties": {"body_encoding": "base64", "delivery_info": {}, "delivery_tag": "t"},
        }
    ).encode()


def reasons(reason: str, error: str, text: str, stack: tuple[str, str], line: int, queue: str) -> dict[str, Any]:
    """Why, as the worker writes it."""
    traceback = (
        f'Traceback (most recent call last):\n  File "{stack[0]}", line {line}, in {stack[1]}\n{error}: {text}\n'
    )
    failure = {"attempt": 3, "type": error, "message": text, "traceback": traceback, "at": "now", "by": "w1"}
    return {
        "queue": queue,
        "reason": reason,
        "error": {"type": error, "message": text},
        "attempts": 3,
        "failures": [failure],
        "at": 1,
        "by": "w1",
    }


class LettersUnderTest(ABC):
    """What the tests of the log need."""

    log: DeadLetters
    #: Whether a replayed message that dies again is the same, byte for byte.
    keeps_bytes = True
    #: Whether what is sent again dies; "silently" if no letter is kept of it.
    all_die: bool | str = False

    def __init__(self) -> None:
        self.number = 0

    def add_letter(
        self,
        *,
        agent: str = QUEUE,
        message: str = "Charge",
        error: str = "ValueError",
        reason: str = "retries exhausted",
        text: str = "no",
        stack: tuple[str, str] = ("/a/bank.py", "pay"),
        line: int = 1,
        queue: str = QUEUE,
        **content: Any,
    ) -> str:
        """A letter; returns its id."""
        self.number += 1
        raw = wire_message(self.number, agent, message, **content)
        return self.put(raw, reasons(reason, error, text, stack, line, queue))

    def add_raw_letter(self, raw: bytes) -> str:
        """A letter that is no message."""
        return self.put(
            raw, {"queue": QUEUE, "reason": "malformed", "error": {"type": "MalformedEntry", "message": ""}}
        )

    @abstractmethod
    def put(self, raw: bytes, letter: dict[str, Any]) -> str:
        """A message that dies."""

    @abstractmethod
    def sent_headers(self) -> list[dict[str, Any]]:
        """The headers, as a worker sees them, of what was sent again."""

    @abstractmethod
    def die_again(self) -> list[DeadLetter]:
        """Have everything that was sent again die of the same; returns the letters."""

    @abstractmethod
    def accepted(self) -> int:
        """How many messages were sent again."""

    @abstractmethod
    def let_pass(self, seconds: float) -> None:
        """Time passes, as the log sees it."""

    @abstractmethod
    def bound(self, queue: str, limit: int) -> None:
        """Have a mailbox refuse what is more than that."""

    @abstractmethod
    def worker(self) -> Any:
        """Somebody who handles what is sent again, or has it die."""

    def index_problems(self) -> list[str]:
        """What is wrong with the index."""
        return []

    @abstractmethod
    def close(self) -> None:
        """The end."""


class LettersInRedis(LettersUnderTest):
    """On a real Redis, with the transport's own scripts."""

    def __init__(self, url: str, hidden: tuple[str, ...], validate: Validate | None) -> None:
        super().__init__()
        self.redis = patient_redis(url)
        self.keys = Keys()
        self.store = Store(self.redis, self.keys, Options(), LEVELS, self.redis.connection_pool, url)
        self.letter_store = _Later(self.store)
        self.log = DeadLetters(self.letter_store, hidden, validate)
        self.stop = threading.Event()

    def put(self, raw: bytes, letter: dict[str, Any]) -> str:
        k = self.keys
        stream = k.stream(letter["queue"], "0")
        self.store.run(*commands.declare(k, letter["queue"], [stream]))
        entry: Any = self.redis.xadd(stream, {"m": raw})
        return self._dead_letter(stream, entry.decode(), letter)

    def _dead_letter(self, stream: str, entry: str, letter: dict[str, Any], delivery: str = "") -> str:
        k, queue = self.keys, letter["queue"]
        self.redis.xreadgroup(GROUP, "w", {stream: ">"})
        error = letter["error"]["type"]
        stack = letter.get("failures", [{}])[-1].get("traceback", "")
        group = fingerprint(error, stack) if stack else ""
        full, reason = json.dumps(letter), letter["reason"]
        said: Any = self.store.run(
            *commands.dead_letter(
                k, queue, stream, entry, full, reason, error, fingerprint=group, delivery=delivery, ttl_ms=10**6
            )
        )
        return str(said.decode())

    def _sent(self) -> list[tuple[str, str, bytes]]:
        streams = [self.keys.stream(q.decode(), "0") for q in self.redis.smembers(self.keys.queues)]
        return [
            (s, e.decode(), with_lineage(f[b"m"], f.get(b"r", b""))) for s in streams for e, f in self.redis.xrange(s)
        ]

    def sent_headers(self) -> list[dict[str, Any]]:
        return [decode(raw, tag="t", queue=QUEUE, redelivered=False)["headers"] for _, _, raw in self._sent()]

    def die_again(self) -> list[DeadLetter]:
        died = []
        for stream, entry, _ in self._sent():
            letter = reasons("retries exhausted", "ValueError", "no", ("/a/bank.py", "pay"), 1, stream.split(":")[-1])
            died.append(self._dead_letter(stream, entry, letter))
        return [self.log.get(letter_id) for letter_id in died]

    def accepted(self) -> int:
        return sum(
            int(self.redis.hget(self.keys.ledger(q.decode()), "accepted") or 0)
            for q in self.redis.smembers(self.keys.queues)
        )

    def bound(self, queue: str, limit: int) -> None:
        declare_flow(self.store, queue, Flow(mailbox=Mailbox(limit)), serves=True)

    def let_pass(self, seconds: float) -> None:
        self.letter_store.later_ms += round(seconds * 1000)

    @contextmanager
    def worker(self) -> Iterator[None]:
        thread = threading.Thread(target=self._work)
        thread.start()
        try:
            yield
        finally:
            self.stop.set()
            thread.join(timeout=10)

    def _work(self) -> None:
        while not self.stop.wait(0.01):
            for stream, entry, raw in self._sent():
                delivery = decode(raw, tag="t", queue=QUEUE, redelivered=False)["headers"]["id"]
                if self.all_die is True:
                    letter = reasons("retries exhausted", "ValueError", "no", ("/a/b.py", "pay"), 1, QUEUE)
                    self._dead_letter(stream, entry, letter, delivery)
                else:
                    self.redis.xreadgroup(GROUP, "w", {stream: ">"})
                    k = self.keys
                    ends = "dead" if self.all_die else "handled"
                    self.store.run(
                        *commands.settle_with_outcome(
                            stream, k.ledger(QUEUE), k.outcome(delivery), entry, ends, f'{{"outcome":"{ends}"}}', 10**6
                        )
                    )

    def index_problems(self) -> list[str]:
        return index_problems(self.redis, self.keys)

    def close(self) -> None:
        self.redis.close()


class _Later(RedisDeadLetterStore):
    """A store whose clock the test can advance; Redis' own clock it cannot."""

    later_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.later_ms


class LettersInMemory(LettersUnderTest):
    """As eager mode has it."""

    keeps_bytes = False

    def __init__(self, hidden: tuple[str, ...], validate: Validate | None) -> None:
        super().__init__()
        self.later_ms = 0
        self.now = 1_700_000_000_000
        self.again: list[tuple[str, bytes]] = []
        self.limits: dict[str, int] = {}
        self.room: dict[str, int] = {}
        self.count = 0
        self.working = False
        self.memory = InMemoryDeadLetterStore(self._send, lambda: self.now)
        self.log = DeadLetters(self.memory, hidden, validate)

    def put(self, raw: bytes, letter: dict[str, Any]) -> str:
        return self.memory.add(raw, letter)

    def _send(self, queue: str, raw: bytes) -> bool:
        if self.room.get(queue, 1) <= 0:
            raise MailboxFull(queue, depth=self.limits[queue], limit=self.limits[queue])
        if queue in self.room:
            self.room[queue] -= 1
        self.count += 1
        if self.working:
            if self.all_die == "silently":
                return True
            if self.all_die:
                self.put(raw, reasons("retries exhausted", "ValueError", "no", ("/a/b.py", "pay"), 1, queue))
        else:
            self.again.append((queue, raw))
        return False

    def bound(self, queue: str, limit: int) -> None:
        self.limits[queue] = limit
        self.room[queue] = limit

    def sent_headers(self) -> list[dict[str, Any]]:
        return [json.loads(raw)["headers"] for _, raw in self.again]

    def die_again(self) -> list[DeadLetter]:
        sent, self.again = self.again, []
        letters = [
            self.put(raw, reasons("retries exhausted", "ValueError", "no", ("/a/bank.py", "pay"), 1, queue))
            for queue, raw in sent
        ]
        return [self.log.get(letter_id) for letter_id in letters]

    def accepted(self) -> int:
        return self.count

    def let_pass(self, seconds: float) -> None:
        self.now += round(seconds * 1000)

    @contextmanager
    def worker(self) -> Iterator[None]:
        self.working = True
        yield

    def close(self) -> None:
        self.again.clear()


def index_problems(redis: Any, keys: Keys) -> list[str]:
    """Compares everything beside the log with the log: nothing dangles, nothing is missing."""
    letters = {entry.decode(): fields for entry, fields in redis.xrange(keys.dead_letters)}
    problems = []
    wanted: dict[str, set[str]] = {}
    kinds: set[str] = set()
    named = {kind.decode(): json.loads(names) for kind, names in redis.hgetall(keys.letter_kind_names).items()}
    for letter_id, fields in letters.items():
        kind = fields[b"k"].decode()
        values = [indexed(value) for value in named.get(kind, [])[:-1]]
        kinds.add(kind)
        wanted.setdefault(keys.letters_of(kind), set()).add(letter_id)
        if not values:
            problems.append(f"{letter_id} is of no known kind")
            continue
        for dimension, value in zip(DIMENSIONS, values, strict=True):
            if value:
                wanted.setdefault(keys.letters(dimension, value), set()).add(kind)
    others = {keys.letter_audit, keys.parked_letters, keys.letter_notes, keys.letters_due, keys.letters_planned}
    others |= {keys.letter_origins, keys.letters_expired, keys.letter_kinds, keys.letter_kind_names}
    # SCAN may name a key twice.
    for raw in set(redis.scan_iter(f"{keys.root}letters:*")):
        key = raw.decode()
        part = key.removeprefix(f"{keys.root}letters:").split(":")[0]
        if key in others or part == "audit":
            continue
        if part == "arrivals":
            if not redis.exists(key.replace("letters:arrivals:", "letters:group:")):
                problems.append(f"{key} is of no letter")
            continue
        there = (
            {entry.decode() for entry, _ in redis.xrange(key)}
            if part == "kind"
            else {member.decode() for member in redis.smembers(key)}
        )
        if there != wanted.pop(key, set()):
            problems.append(f"{key} has {there}")
    problems += [f"{key} is missing" for key in wanted]
    known = {raw.decode() for raw in redis.zrange(keys.letter_kinds, 0, -1)}
    if known != kinds or set(named) != kinds:
        problems.append(f"kinds {known}, named {named}, but there are {kinds}")
    unpadded = {
        "-".join(str(int(part)) for part in member.decode().split("-"))
        for member in redis.zrange(keys.parked_letters, 0, -1)
    }
    noted = {raw.decode() for raw in redis.hkeys(keys.letter_notes)}
    due = {raw.decode() for raw in redis.zrange(keys.letters_due, 0, -1)}
    origins = {raw.decode() for raw in redis.hvals(keys.letter_origins)}
    if unpadded != noted:
        problems.append(f"parked {unpadded} but noted {noted}")
    for name, ids in (("parked", unpadded), ("due", due), ("origins", origins)):
        if not ids <= set(letters):
            problems.append(f"{name} names letters that are not there: {ids - set(letters)}")
    if due & unpadded:
        problems.append(f"parked and due: {due & unpadded}")
    return problems
