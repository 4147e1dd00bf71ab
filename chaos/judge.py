"""Compares the witness' record with the library's. Pure, so that tests can show that it finds violations."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from chaos.app import COORDINATION, ID, RETRY, SENTRY
from chaos.claims import ClaimsSeen
from chaos.judge_asks import AsksVerdict, judge_asks
from chaos.judge_barriers import ROWS as ROWS_OF_BARRIERS
from chaos.judge_barriers import BarriersVerdict, judge_barriers
from chaos.judge_lanes import ROWS as ROWS_OF_LANES
from chaos.judge_lanes import LanesVerdict, judge_lanes
from chaos.judge_leases import LeasesVerdict, judge_leases
from chaos.judge_placement import PlacementVerdict, judge_placement
from chaos.judge_recovery import Recovery, recoveries, tardy
from chaos.judge_runs import RunsVerdict, is_of_runs, judge_runs
from chaos.judge_schedules import ScheduleRecord, SchedulesVerdict, judge_schedules
from chaos.judge_terms import judge_terms
from chaos.judge_votes import VotesVerdict, judge_votes
from chaos.lives import Life, describe
from chaos.placed import CRANES
from chaos.redis_record import Recorded
from chaos.run_records import RunRecord
from chaos.steps import STEPS
from chaos.witness import Row
from orchestrator.core.deliveries.outcome import Reason
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.registry.registry import Death
from orchestrator.sending.calls.call_counts import CallCounts
from orchestrator.sending.ledger import LedgerRow, total

#: Tolerance for rounding and for the clocks of two servers on one machine, in seconds.
SKEW_MS = 50

#: Deaths that make a message poison (the default that the run uses).
_DEATHS = 3

#: Minimum length of the record of deaths.
_RECORDED = 1000

#: Duplicated executions that a kill may cause.
_DUPLICATES_PER_KILL = 2

#: From the record of a death until its DOWNs are recorded, with sweepers and Redis being killed meanwhile. An owner
#: that ended sooner than this after its target may have been told nothing; nor need there be a DOWN of a monitor that
#: was ended so soon.
_DOWN_MS = 10_000

#: Rows of what is contended for, led and asked.
_OF_COORDINATION = (
    *("held", "wrote", "checked", "requests", "in line", "granted"),
    *("elected", "commanded", "asking", "made", "unasked", "reply", "answering", "unable", "answered"),
    *("proposing", "proposed", "decided", "undecided", "told of"),
    *ROWS_OF_BARRIERS,
    *ROWS_OF_LANES,
)

_ENDS = ("done", "fail")


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence of a run that has ended."""

    rows: Sequence[Row]
    ledger: Sequence[LedgerRow]
    load_queues: Sequence[str]
    letters: Sequence[DeadLetter]
    #: Messages that are still in the broker.
    waiting: Set[str] = frozenset()
    leftovers: Sequence[str] = ()
    problems: Sequence[str] = ()
    #: DOWNs that were recorded, and inconsistencies among the monitors.
    downs: int = 0
    inconsistencies: Sequence[str] = ()
    #: The record of deaths.
    deaths: Sequence[Death] = ()
    runs: Sequence[RunRecord] = ()
    schedules: Sequence[ScheduleRecord] = ()
    #: The ledger of fires.
    fires: Mapping[str, int] = field(default_factory=dict)
    #: Redis' own record of leases and asks, who was seen to have claimed a singleton's messages, and counts of asks.
    record: Sequence[Recorded] = ()
    claims: Sequence[ClaimsSeen] = ()
    calls: Sequence[CallCounts] = ()

    @property
    def ended(self) -> dict[str, int]:
        """When each incarnation was first on record as having ended, in ms."""
        ended: dict[str, int] = {}
        for death in self.deaths:
            ended[death.incarnation] = min(death.at_ms, ended.get(death.incarnation, death.at_ms))
        return ended


@dataclass(frozen=True, slots=True)
class Verdict:
    """The figures and the violations of a run."""

    accepted: int
    uncertain: int
    handled: int
    dead: int
    lost: int
    early: int
    duplicated: int
    kills: int
    #: For each SIGKILL of a worker with messages: how long others served until the last of them began elsewhere.
    recovered_s: tuple[float, ...]
    violations: tuple[str, ...]
    #: Harmless messages whose workers died as often as poison kills.
    bystanders: tuple[str, ...] = ()
    #: The lives of messages that were executed too often.
    duplicates: tuple[str, ...] = ()
    #: The lives of messages that a killed worker held, and that began elsewhere only after a while.
    tardy: tuple[str, ...] = ()
    #: Kills, ends and starts in order.
    events: tuple[str, ...] = ()
    #: Monitors that were made, and DOWNs that were recorded.
    monitors: int = 0
    downs: int = 0
    leases: LeasesVerdict = field(default_factory=LeasesVerdict)
    asks: AsksVerdict = field(default_factory=AsksVerdict)
    votes: VotesVerdict = field(default_factory=VotesVerdict)
    barriers: BarriersVerdict = field(default_factory=BarriersVerdict)
    lanes: LanesVerdict = field(default_factory=LanesVerdict)
    schedules: SchedulesVerdict = field(default_factory=lambda: SchedulesVerdict(0, 0, 0, 0, ()))
    placement: PlacementVerdict = field(default_factory=PlacementVerdict)
    runs: RunsVerdict = field(default_factory=lambda: RunsVerdict(0, Counter(), 0, ()))

    @property
    def line(self) -> str:
        """The last line of a run."""
        return (
            f"chaos: accepted={self.accepted} handled={self.handled} dead={self.dead} lost={self.lost} "
            f"early={self.early} duplicated={self.duplicated} kills={self.kills} "
            f"per_kill={self.duplicated / self.kills if self.kills else 0.0:.2f} "
            f"recovered={len(self.recovered_s)} "
            f"recovered_p99_s={f'{percentile(self.recovered_s, 0.99):.2f}' if self.recovered_s else '-'} "
            f"workflows={self.runs.started} fires={self.schedules.fired} "
            f"grants={self.leases.grants} terms={self.leases.terms} asks={self.asks.asks} "
            f"ballots={self.votes.ballots} placed={self.placement.placed} "
            f"barriers={self.barriers.generations} lanes={self.lanes.entered}"
        )


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed; there must be one."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a run."""
    # Kills are of concern to both the messages and the workflows.
    letters = [letter for letter in evidence.letters if letter.queue in (STEPS, *CRANES)]
    runs = judge_runs(evidence.rows, evidence.runs, letters, evidence.ledger)
    placement = judge_placement(evidence.rows, evidence.runs, letters, evidence.ledger)
    leases = judge_leases(evidence.rows, evidence.record)
    asks = judge_asks(evidence.rows, evidence.record, evidence.calls, evidence.letters)
    votes = judge_votes(evidence.rows, evidence.record, evidence.letters)
    barriers = judge_barriers(evidence.rows, evidence.record, evidence.letters)
    lanes = judge_lanes(evidence.rows, evidence.ledger)
    terms = judge_terms(evidence.rows, evidence.record, evidence.claims)
    evidence = replace(
        evidence,
        rows=[row for row in evidence.rows if not is_of_runs(row) and row.what not in _OF_COORDINATION],
        letters=[letter for letter in evidence.letters if letter.queue not in (STEPS, *CRANES, *COORDINATION)],
    )
    lives = _lives(evidence)

    def story(message_id: str) -> str:
        return describe(message_id, lives[message_id], strikes, evidence.deaths)

    strikes = [row for row in evidence.rows if row.what == "strike"]
    poisoned = [row for row in evidence.rows if row.what == "start" and row.note.get("poison")]
    recovered = recoveries(evidence.rows, lives)
    kills = len(strikes) + len(poisoned)
    loads = total(row for row in evidence.ledger if row.queue in evidence.load_queues)
    violations = list(evidence.problems)
    violations += _ledger_problems(evidence, lives)
    lost = [
        message_id
        for message_id, life in lives.items()
        if life.accepted and not life.done and not life.letters and message_id not in evidence.waiting
    ]
    violations += [f"lost: {story(message_id)}" for message_id in lost]
    early = [message_id for message_id, life in lives.items() if _is_early(life)]
    violations += [f"early: {story(message_id)}" for message_id in early]
    violations += _down_problems(evidence)
    violations += _letter_problems(lives, story)
    duplicates = {message_id: n for message_id, life in lives.items() if (n := _duplicated(life))}
    duplicated = sum(duplicates.values())
    # Contenders run no messages.
    of_runners = sum(str(row.note.get("kind")).partition("-")[0] != "contender" for row in strikes) + len(poisoned)
    if duplicated > _DUPLICATES_PER_KILL * of_runners:
        violations.append(f"{duplicated} executions too many, after {of_runners} kills")
    violations += (
        *runs.violations,
        *placement.violations,
        *leases.violations,
        *terms,
        *asks.violations,
        *votes.violations,
        *barriers.violations,
        *lanes.violations,
    )
    schedules = judge_schedules(evidence.rows, evidence.schedules, evidence.fires)
    violations += schedules.violations
    violations += _fallen(evidence.rows, poisoned)
    violations += [f"left behind: {leftover}" for leftover in evidence.leftovers]
    return Verdict(
        accepted=loads.accepted,
        uncertain=sum(life.uncertain for life in lives.values()),
        handled=loads.handled,
        dead=loads.dead,
        lost=len(lost) + sum(abs(row.lost) for row in evidence.ledger),
        early=len(early),
        duplicated=duplicated,
        kills=kills,
        recovered_s=tuple(s for strike in strikes if (s := _last_s(strike, recovered)) is not None),
        violations=tuple(violations),
        bystanders=tuple(story(message_id) for message_id, life in lives.items() if _is_bystander(life)),
        duplicates=tuple(map(story, duplicates)),
        tardy=tuple(tardy(recovered, evidence.rows, lives, evidence.deaths)),
        events=tuple(_events(evidence.rows, recovered)),
        monitors=sum(row.what == "watch" for row in evidence.rows),
        downs=evidence.downs,
        runs=runs,
        placement=placement,
        schedules=schedules,
        leases=leases,
        asks=asks,
        votes=votes,
        barriers=barriers,
        lanes=lanes,
    )


def _lives(evidence: Evidence) -> dict[str, Life]:
    lives: dict[str, Life] = defaultdict(Life)
    for row in evidence.rows:
        if not row.id:
            continue
        life = lives[row.id]
        life.rows.append(row)
        match row.what:
            case "intent":
                life.kind = str(row.note.get("kind", ""))
                life.intent_ms = row.at_ms
                life.countdown_ms = int(row.note.get("countdown_ms", 0))
                life.priority = int(row.note.get("priority") or 0)
            case "accepted":
                life.accepted = True
            case "uncertain":
                life.uncertain = True
    for letter in evidence.letters:
        if letter.agent == SENTRY:
            continue
        lives[str(letter.metadata.get(ID) or letter.delivery_id)].letters.append(letter)
    return dict(lives)


def _ledger_problems(evidence: Evidence, lives: Mapping[str, Life]) -> list[str]:
    problems = [f"the ledger does not balance: {row}" for row in evidence.ledger if not row.balanced]
    problems += [f"still pending at the end: {row}" for row in evidence.ledger if row.pending]
    loads = total(row for row in evidence.ledger if row.queue in evidence.load_queues)
    accepted = sum(life.accepted for life in lives.values())
    if loads.accepted < accepted:
        problems.append(f"the ledger says {loads.accepted} accepted, the sender {accepted}")
    # A publish whose answer was lost is repeated: at most one a kill of Redis, beside the uncertain ones.
    repeated = sum(row.what == "strike" and row.note.get("kind") == "redis" for row in evidence.rows)
    intents = sum(bool(life.kind) for life in lives.values())
    if loads.accepted > intents + repeated:
        problems.append(f"the ledger says {loads.accepted} accepted, the sender made {intents} sends")
    return problems


def _down_problems(evidence: Evidence) -> list[str]:
    """Each monitor has at most one DOWN, and each recorded DOWN was handled, once or (after a death) again."""
    handled = {int(row.note["ref"]) for row in evidence.rows if row.what == "told"}
    handled |= {int(letter.delivery_id.removeprefix("down-")) for letter in evidence.letters if letter.agent == SENTRY}
    problems = [f"inconsistent: {text}" for text in evidence.inconsistencies]
    if len(handled) != evidence.downs:
        problems.append(f"{evidence.downs} DOWNs recorded, {len(handled)} handled")
    return problems + _unhandled(evidence, handled)


def _unhandled(evidence: Evidence, handled: Set[int]) -> list[str]:
    """Each monitor whose target died while its owner lived on has had its DOWN, and none whose target lives."""
    ended = evidence.ended
    until_ms = min((row.at_ms for row in evidence.rows if row.what == "unwatch"), default=0)
    problems = []
    for row in evidence.rows:
        if row.what != "watch" or "target" not in row.note:
            continue
        ref, owner, target = int(row.note["ref"]), str(row.note["owner"]), str(row.note["target"])
        who = f"monitor {ref} of {owner} on {target}"
        if target not in ended:
            # The record of deaths is capped; with none at all, nothing is known.
            if ref in handled and ended and len(ended) < _RECORDED:
                problems.append(f"a DOWN of a death that is not on record: {who}")
            continue
        due_ms = max(ended[target], row.at_ms) + _DOWN_MS
        # Every owner has ended when the evidence is taken; of one that is not on record nobody knows when.
        if ref not in handled and due_ms < ended.get(owner, 0) and due_ms < until_ms:
            problems.append(f"no DOWN although its target has died and its owner lived on: {who}")
    return problems


def _is_early(life: Life) -> bool:
    due = {1: life.intent_ms + life.countdown_ms}
    for fail in life.of("fail"):
        pause_ms = RETRY.backoff.pause_s(fail.attempt, 0.0) * 1000
        due.setdefault(fail.attempt + 1, fail.at_ms + int(pause_ms))
    # An attempt after one that never failed is early, whenever it was.
    return any(start.attempt not in due or start.at_ms < due[start.attempt] - SKEW_MS for start in life.of("start"))


def _letter_problems(lives: Mapping[str, Life], story: Callable[[str], str]) -> list[str]:
    problems = []
    for message_id, life in lives.items():
        for letter in life.letters:
            if not _has_cause(life, letter):
                problems.append(f"dead letter without cause ({letter.reason}): {story(message_id)}")
        if life.of("start") and not life.kind:
            problems.append(f"executed but never sent: {story(message_id)}")
    return problems


def _has_cause(life: Life, letter: DeadLetter) -> bool:
    if letter.reason == Reason.POISON:
        # A worker marks what it starts just before the message itself can write to the witness. A death counts against
        # a message only if no other message can have caused it. An execution that has ended counts too, as long as its
        # outcome is not recorded: Redis cannot know of one without the other.
        poison = bool(letter.deaths) and letter.deaths[-1].get("alone") is True
        return poison and len(letter.deaths) >= _DEATHS and life.unrecorded >= _DEATHS - 1
    if letter.reason == Reason.EXHAUSTED:
        failed = {row.attempt for row in life.of("fail")}
        return life.kind == "hopeless" and failed >= set(range(1, RETRY.max_retries + 2))
    return False


def _is_bystander(life: Life) -> bool:
    return life.kind != "poison" and any(letter.reason == Reason.POISON for letter in life.letters)


def _duplicated(life: Life) -> int:
    ends: dict[int, int] = defaultdict(int)
    for row in life.of(*_ENDS):
        ends[row.attempt] += 1
    return sum(n - 1 for n in ends.values())


def _fallen(rows: Iterable[Row], poisoned: Sequence[Row]) -> list[str]:
    deadly = {row.pid for row in poisoned}
    return [
        f"{row.node} (pid {row.pid}) ended by itself with {row.note.get('exit_code')}"
        for row in rows
        if row.what == "fell" and row.pid not in deadly
    ]


def _last_s(strike: Row, recovered: Sequence[Recovery]) -> float | None:
    """Seconds of service by others until the last message that a killed worker held had begun elsewhere."""
    return max((one.served_s for one in recovered if one.strike is strike), default=None)


def _events(rows: Sequence[Row], recovered: Sequence[Recovery]) -> Iterable[str]:
    shown = [row for row in rows if not row.id or row.note.get("poison")]
    for row in shown:
        line = f"{(row.at_ms - shown[0].at_ms) / 1000:8.3f} s  {row.what} {row.node} (pid {row.pid})"
        line += "".join(f" {name}={value}" for name, value in row.note.items() if name not in ("held", "pids"))
        if row.note.get("held"):
            line += f", held {len(row.note['held'])}, the last of them began elsewhere after "
            line += f"{_last_s(row, recovered)} s of service by others"
        yield line
