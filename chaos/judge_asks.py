"""Compares what was asked, and what came of it, with Redis' own record of replies and fallbacks. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from chaos.app import COORDINATION
from chaos.ballots import VOTERS
from chaos.judge_leases import Stops
from chaos.questions import FALLBACK, answer_to
from chaos.redis_record import Recorded
from chaos.witness import Row
from orchestrator.core.deliveries.outcome import Reason
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.sending.calls.call_counts import CallCounts

_SKEW_MS = 50

#: Deaths that make a message poison.
_DEATHS = 3


@dataclass(frozen=True, slots=True)
class AsksVerdict:
    """The figures and the violations of asks and calls."""

    asks: int = 0
    fell_back: int = 0
    violations: tuple[str, ...] = ()


@dataclass(slots=True)
class _Case:
    """What the witness saw of one question."""

    how: str = ""
    on_death: str = ""
    asked: Row | None = None
    timeout_ms: int = 0
    #: Its id, if the asker learned it.
    made: str = ""
    is_uncertain: bool = False
    replies: list[Row] = field(default_factory=list)
    #: Executions of the question itself, and of its durable fallback.
    begun: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)
    answered: list[Row] = field(default_factory=list)
    fallbacks: list[Row] = field(default_factory=list)


def judge_asks(
    rows: Sequence[Row], record: Sequence[Recorded], calls: Sequence[CallCounts], letters: Sequence[DeadLetter]
) -> AsksVerdict:
    """The verdict on all asks and calls; of the ``letters``, those of the mailboxes that take part count."""
    cases, stops = _cases(rows), Stops(rows)
    letters = [letter for letter in letters if letter.queue in COORDINATION]
    replied = Counter(event.fields[1] for event in record if event.kind == "replied")
    ended = {event.fields[1]: event.fields[2] for event in record if event.kind == "replied"}
    fell_back = [event for event in record if event.kind == "fell_back"]
    violations = [
        *(f"ask {ask}: {count} replies on Redis' record" for ask, count in replied.items() if count > 1),
        *_fallback_problems(cases, fell_back, letters, stops),
        *_count_problems(cases, fell_back, calls),
        *_letter_problems(letters),
    ]
    by_tag = {case.made: tag for tag, case in cases.items() if case.how == "then" and case.made}
    lettered = {letter.delivery_id for letter in letters}
    for ask, tag in by_tag.items():
        if not replied[ask]:
            violations.append(f"ask {ask} ({tag}): no reply on Redis' record")
        elif not cases[tag].replies and f"reply-{ask}" not in lettered:
            violations.append(f"ask {ask} ({tag}): its reply was never handled")
    for tag, case in cases.items():
        violations += [f"{case.how or 'question'} {tag}: {problem}" for problem in _problems(tag, case, ended, stops)]
    return AsksVerdict(sum(bool(case.how) for case in cases.values()), len(fell_back), tuple(violations))


def _cases(rows: Sequence[Row]) -> dict[str, _Case]:
    cases: dict[str, _Case] = defaultdict(_Case)
    for row in rows:
        if "tag" not in row.note:
            continue
        case = cases[str(row.note["tag"])]
        match row.what:
            case "asking":
                case.how, case.on_death = str(row.note["how"]), str(row.note["on_death"])
                case.asked, case.timeout_ms = row, round(float(row.note["timeout_s"]) * 1000)
            case "made":
                case.made = str(row.note["ask"])
            case "unasked":
                case.is_uncertain = True
            case "reply":
                case.replies.append(row)
            case "answering":
                (case.fallbacks if row.note["fallback"] else case.begun).append(row)
            case "unable":
                case.failed.append(row)
            case "answered" if not row.note["fallback"]:
                case.answered.append(row)
    return dict(cases)


def _problems(tag: str, case: _Case, ended: dict[str, str], stops: Stops) -> Iterator[str]:
    if case.asked is None:
        yield "nobody has asked it"
        return
    yield from _missing(case, stops)
    yield from _differing(case)
    if case.on_death == "fail" and case.how != "value" and len(case.begun) > 1:
        yield f"ran {len(case.begun)} times, although on_death is fail"
    for row in case.replies:
        outcome = str(row.note["outcome"])
        if case.how == "then" and ended.get(str(row.note["ask"])) != outcome:
            yield f"its reply says {outcome}, Redis' record {ended.get(str(row.note['ask']))}"
        after_ms = row.at_ms - case.asked.at_ms
        if outcome == "handled" and (row.note["result"] != answer_to(tag) or not case.answered):
            yield f"handled, with {row.note['result']!r}; it was answered {len(case.answered)} times"
        timed_out = outcome == "timeout" or (outcome == "fell back" and row.note.get("why") == "DeliveryTimeout")
        if timed_out and not _is_over(case, row.at_ms):
            yield f"timed out after {after_ms} ms instead of {case.timeout_ms} ms"
        if outcome == "dead" and not _has_cause(str(row.note["why"]), case, row.at_ms):
            yield f"failed without cause after {after_ms} ms: {row.note['why']}"
        if outcome == "default" and case.how != "value":
            yield "a value came from nowhere"


def _missing(case: _Case, stops: Stops) -> Iterator[str]:
    """Who asks outside of a handler gets an answer, unless it is killed, or Redis is."""
    if case.how == "then" or case.replies or case.is_uncertain or case.asked is None:
        return
    until_ms = case.asked.at_ms + case.timeout_ms + 10_000
    if not stops.was_struck(case.asked, until_ms):
        yield "its caller got no answer"


def _differing(case: _Case) -> Iterator[str]:
    """A reply that is handled again, or fetched again, is the same; only a time-out may be followed by its cancel."""
    said = [(row.note["outcome"], row.note.get("result")) for row in case.replies]
    if len(set(said)) > 1 and said[0][0] != "timeout":
        yield f"different replies: {said}"
    asks = {row.note["ask"] for row in case.replies if "ask" in row.note}
    if len(asks) > 1:
        yield f"replies to {len(asks)} asks"


def _is_over(case: _Case, at_ms: int) -> bool:
    """Whether the time of its request was over: the end of it, when it has no other."""
    return case.asked is None or at_ms - case.asked.at_ms >= case.timeout_ms - _SKEW_MS


def _has_cause(why: str, case: _Case, at_ms: int) -> bool:
    if why == Reason.WORKER_DIED:
        return case.on_death == "fail"
    if why == Reason.POISON:
        return len(case.begun) >= _DEATHS - 1
    if why in (Reason.TIMEOUT, Reason.DEADLINE):
        return _is_over(case, at_ms)
    return bool(case.failed)


def _may_fall_back(ended: str, case: _Case, at_ms: int, stops: Stops) -> bool:
    """Whether a request may have ended so. Its deadline interrupts an execution, which writes nothing more then."""
    match ended:
        case "timeout" | "expired":
            return _is_over(case, at_ms)
        case "dead" if case.on_death == "fail" and not case.begun:
            # Its worker may have died before the execution could write anything.
            died = stops.was_a_worker_struck(0 if case.asked is None else case.asked.at_ms, at_ms)
        case "dead":
            last_death = bool(case.begun) and stops.was_struck(case.begun[-1], at_ms)
            died = last_death and (case.on_death == "fail" or len(case.begun) >= _DEATHS - 1)
        case _:
            # Nobody cancels.
            return False
    return bool(case.failed) or _is_over(case, at_ms) or died


def _fallback_problems(
    cases: dict[str, _Case], fell_back: Sequence[Recorded], letters: Sequence[DeadLetter], stops: Stops
) -> Iterator[str]:
    """A durable fallback is sent once, when its request was not handled, and then it runs."""
    ended = {event.fields[1]: event.fields[3] for event in fell_back}
    at_ms = {event.fields[1]: event.at_ms for event in fell_back}
    for delivery, count in Counter(event.fields[1] for event in fell_back).items():
        if count > 1:
            yield f"fallback {delivery}: sent {count} times"
        if ended[delivery] == "handled":
            yield f"fallback {delivery}: sent although its request was handled"
    lettered: dict[str, set[str]] = defaultdict(set)
    for letter in letters:
        lettered[str(letter.metadata.get(FALLBACK))].add(letter.delivery_id)
    ran: set[str] = set()
    for tag, case in cases.items():
        deliveries = {str(row.note["delivery"]) for row in case.fallbacks} | lettered[tag]
        ran |= deliveries
        outcomes = {str(row.note["outcome"]) for row in case.replies}
        sent = {str(row.note["fallback"]) for row in case.replies if row.note["outcome"] == "fell back"}
        if len(deliveries | sent) > 1:
            yield f"{case.how} {tag}: {len(deliveries | sent)} fallbacks: {sorted(deliveries | sent)}"
        if deliveries and "handled" in outcomes:
            yield f"{case.how} {tag}: its caller had the reply, and the fallback ran"
        for delivery in deliveries:
            # A request that Redis did not accept has a fallback that its caller sends; one that is killed says nothing.
            if case.replies and delivery not in ended and delivery not in sent and not case.is_uncertain:
                yield f"{case.how} {tag}: fallback {delivery} ran, and was never sent"
        if case.how == "durable" and case.begun and not case.answered and not deliveries:
            yield f"{case.how} {tag}: neither answered nor sent again"
        for delivery in deliveries & ended.keys():
            if ended[delivery] != "handled" and not _may_fall_back(ended[delivery], case, at_ms[delivery], stops):
                after_ms = at_ms[delivery] - (0 if case.asked is None else case.asked.at_ms)
                yield f"{case.how} {tag}: sent again as {ended[delivery]} after {after_ms} ms, without cause"
    for delivery in ended.keys() - ran:
        yield f"fallback {delivery}: sent, and never ran"


def _count_problems(
    cases: dict[str, _Case], fell_back: Sequence[Recorded], calls: Sequence[CallCounts]
) -> Iterator[str]:
    """Redis has counted what was asked, and nothing is open."""
    for counts in calls:
        if counts.open:
            yield f"{counts.open} asks of {counts.queue} are open at the end"
    counted = sum(counts.asked for counts in calls)
    recorded = [case for case in cases.values() if case.how in ("then", "durable")]
    made = sum(bool(case.made) and case.how == "then" for case in recorded)
    if not made <= counted <= len(recorded):
        yield f"Redis counts {counted} asks; {made} to {len(recorded)} were made"
    if sum(counts.fell_back for counts in calls) != len(fell_back):
        yield f"Redis counts {sum(counts.fell_back for counts in calls)} fallbacks, and has recorded {len(fell_back)}"


def _letter_problems(letters: Sequence[DeadLetter]) -> Iterator[str]:
    """Nothing here fails for good, except votes, and what a worker has died with often enough."""
    for letter in letters:
        failed = letter.queue in VOTERS and letter.reason in (Reason.EXHAUSTED, Reason.TIMEOUT, Reason.DEADLINE)
        if not failed and (letter.reason != Reason.POISON or len(letter.deaths) < _DEATHS):
            yield f"dead letter without cause ({letter.reason}): {letter.delivery_id} of {letter.queue}"
