"""Compares what voters and proposers were told with Redis' own record of votes and decisions. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from chaos.ballots import VOTERS
from chaos.redis_record import Recorded
from chaos.witness import Row
from orchestrator.core.deliveries.outcome import Reason
from orchestrator.deadletters.letter import DeadLetter


@dataclass(slots=True)
class _Case:
    """One ballot."""

    says: dict[str, str] = field(default_factory=dict)
    rule: str = ""
    silent: str = ""
    is_accepted_by_redis: bool = False
    #: Votes on Redis' record, in order: voter and vote.
    voted: list[tuple[str, str]] = field(default_factory=list)
    #: Decisions on the record: accepted, how.
    decided: list[tuple[bool, str]] = field(default_factory=list)
    #: Votes after the decision.
    late: list[str] = field(default_factory=list)
    #: What the proposer and the voters were told.
    told: list[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class VotesVerdict:
    """The figures and the violations of ballots."""

    ballots: int = 0
    violations: tuple[str, ...] = ()


def judge_votes(rows: Sequence[Row], record: Sequence[Recorded], letters: Sequence[DeadLetter]) -> VotesVerdict:
    """The verdict on all ballots."""
    cases: dict[str, _Case] = defaultdict(_Case)
    for row in rows:
        match row.what:
            case "proposing":
                case = cases[str(row.note["ballot"])]
                case.says, case.rule = dict(row.note["says"]), str(row.note["rule"])
                case.silent = str(row.note["silent"])
            case "proposed":
                cases[str(row.note["ballot"])].is_accepted_by_redis = True
            case "told of" | "decided":
                cases[str(row.note["ballot"])].told.append(row)
    for event in record:
        if event.kind == "voted":
            ballot, _, voter, vote, *_ = event.fields
            case = cases[ballot]
            (case.voted if not case.decided else []).append((voter, vote))
            case.late += [voter] if case.decided else []
        elif event.kind == "ballot_decided":
            ballot, _, accepted, how, *_ = event.fields
            cases[ballot].decided.append((accepted == "accepted", how))
    lettered = {letter.agent for letter in letters if letter.message == "on_decision"}
    violations = [*_letter_problems(cases.values(), letters)]
    violations += [f"ballot {ballot}: {text}" for ballot, case in cases.items() for text in _problems(case, lettered)]
    return VotesVerdict(len(cases), tuple(violations))


def _problems(case: _Case, lettered: set[str]) -> Iterator[str]:
    if not case.says:
        yield "nobody has proposed it"
        return
    if not case.decided:
        if case.is_accepted_by_redis or case.voted:
            yield "was never decided"
        return
    if len(case.decided) > 1:
        yield f"was decided {len(case.decided)} times: {case.decided}"
    if case.late:
        yield f"votes were counted after its decision: {case.late}"
    voters = [voter for voter, _ in case.voted]
    if len(set(voters)) < len(voters):
        yield f"a voter was counted twice: {case.voted}"
    for voter, vote in case.voted:
        if vote != "silent" and case.says.get(voter) != vote:
            yield f"{voter} was to {case.says.get(voter)}, and its vote is {vote}"
    accepted, how = case.decided[0]
    if how in ("votes", "timeout") and accepted != _is_accepted(case):
        yield f"was decided by {how} as accepted={accepted}, with {case.voted}"
    yield from _told_problems(case, accepted, lettered)


def _letter_problems(cases: Iterable[_Case], letters: Sequence[DeadLetter]) -> Iterator[str]:
    """A vote fails for good if its voter was told to fail."""
    fails = Counter(voter for case in cases for voter, says in case.says.items() if says == "fail")
    dead = Counter(letter.agent for letter in letters if letter.agent in VOTERS and letter.reason == Reason.EXHAUSTED)
    for voter, count in dead.items():
        if count > fails[voter]:
            yield f"ballots: {count} dead letters of {voter}, which was told to fail {fails[voter]} times"


def _is_accepted(case: _Case) -> bool:
    """The rule, anew: of the votes that were counted before the decision, the others being silent or against it."""
    approved = sum(vote == "approve" for _, vote in case.voted)
    rejected = sum(vote == "reject" for _, vote in case.voted)
    silent = sum(vote == "silent" for _, vote in case.voted)
    if case.decided[0][1] == "timeout":
        silent = len(VOTERS) - approved - rejected
    against = rejected + (silent if case.silent == "reject" else 0)
    open_ = len(VOTERS) - approved - rejected - silent
    match case.rule:
        case "Quorum":
            return approved >= 2
        case "Majority":
            return approved > against + open_
        case _:
            return approved > 0 and against + open_ == 0


def _told_problems(case: _Case, accepted: bool, lettered: set[str]) -> Iterator[str]:
    said = {(row.note["accepted"], str(row.note["votes"])) for row in case.told}
    if len(said) > 1:
        yield f"they were told different decisions: {sorted(said, key=str)}"
    if said and {told for told, _ in said} != {accepted}:
        yield f"it was {'accepted' if accepted else 'rejected'}, and they were told otherwise"
    for voter in VOTERS:
        deliveries = {row.note["delivery"] for row in case.told if row.note.get("voter") == voter}
        if len(deliveries) > 1:
            yield f"{voter} was told in {len(deliveries)} messages"
        if not deliveries and voter not in lettered:
            yield f"{voter} was not told of the decision"
