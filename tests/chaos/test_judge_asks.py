"""The judge of asks finds what it is there to find."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.judge_asks import AsksVerdict, judge_asks
from chaos.questions import answer_to
from chaos.redis_record import Recorded
from chaos.witness import Row
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.sending.calls.call_counts import CallCounts

T = 1_000_000


def row(what: str, at_ms: int = T, tag: str = "q", **note: Any) -> Row:
    return Row(at_ms, what, pid=7, note={"tag": tag, **note})


def asking(how: str = "then", on_death: str = "again", timeout_s: float = 8.0) -> Row:
    return row("asking", how=how, timeout_s=timeout_s, on_death=on_death)


def ran(end: str = "answered", delivery: str = "d", *, fallback: bool = False) -> list[Row]:
    where: dict[str, Any] = {"delivery": delivery, "fallback": fallback}
    return [row("answering", **where), row(end, **where)]


def reply(outcome: str = "handled", at_ms: int = T + 100, **note: Any) -> Row:
    result = answer_to("q") if outcome == "handled" else None
    return row("reply", at_ms, outcome=outcome, **{"result": result, **note})


def replied(ask: str = "i", ended: str = "handled") -> Recorded:
    return Recorded(T, "replied", ("asker", ask, ended))


def fell_back(delivery: str = "f", ended: str = "dead", at_ms: int = T) -> Recorded:
    return Recorded(at_ms, "fell_back", ("oracle", delivery, "i", ended))


def strike(kind: str = "contender", pid: int = 7) -> Row:
    return Row(T + 50, "strike", pid=pid, note={"kind": kind, "pids": [pid]})


MADE = row("made", ask="i")
THEN = [asking(), MADE, *ran(), reply(ask="i")]
FALLBACK = ran(delivery="f", fallback=True)
DURABLE = [asking("durable"), *ran("unable"), *FALLBACK, reply("fell back", fallback="f")]


def verdict(
    rows: list[Row], record: list[Recorded], calls: CallCounts | None = None, letters: tuple[DeadLetter, ...] = ()
) -> AsksVerdict:
    asked = sum(row.what == "asking" and row.note["how"] in ("then", "durable") for row in rows)
    sent = sum(event.kind == "fell_back" for event in record)
    return judge_asks(rows, record, [calls or CallCounts("oracle", asked, handled=asked, fell_back=sent)], letters)


def violations(*given: Any, **more: Any) -> str:
    return "; ".join(verdict(*given, **more).violations)


def test_one_reply_for_each_ask_is_no_violation() -> None:
    assert verdict(THEN, [replied()]) == AsksVerdict(asks=1)
    assert verdict([*THEN, THEN[-1]], [replied()]).violations == (), "the reply is handled again after a death"


def test_an_ask_without_a_reply_is_found() -> None:
    assert "no reply on Redis' record" in violations(THEN[:-1], [])
    assert "its reply was never handled" in violations(THEN[:-1], [replied()])


def test_two_replies_to_an_ask_are_found() -> None:
    assert "2 replies on Redis' record" in violations(THEN, [replied(), replied(ended="timeout")])
    twice = [*THEN, reply("dead", ask="i", why="retries exhausted")]
    assert "different replies" in violations(twice, [replied()])


def test_replies_to_two_asks_of_one_question_are_found() -> None:
    record = [replied(), replied("j")]
    assert "replies to 2 asks" in violations([*THEN, reply(ask="j")], record)


def test_a_value_that_was_no_fallback_is_found() -> None:
    assert "a value came from nowhere" in violations([asking("ask"), reply("default")], [])
    assert violations([asking("value"), reply("default")], []) == ""


def test_a_reply_that_differs_from_what_redis_recorded_is_found() -> None:
    assert "its reply says handled, Redis' record dead" in violations(THEN, [replied(ended="dead")])


def test_a_wrong_answer_and_one_that_nobody_gave_are_found() -> None:
    wrong = [*THEN[:-1], reply(ask="i", result="answer to another")]
    assert "handled, with 'answer to another'" in violations(wrong, [replied()])
    assert "answered 0 times" in violations([asking(), MADE, reply(ask="i")], [replied()])


def test_an_early_time_out_is_found() -> None:
    rows = [asking(), MADE, reply("timeout", T + 3000, ask="i")]
    assert "timed out after 3000 ms instead of 8000 ms" in violations(rows, [replied(ended="timeout")])
    rows = [asking(), MADE, reply("timeout", T + 8001, ask="i")]
    assert violations(rows, [replied(ended="timeout")]) == ""


def test_a_failure_without_a_cause_is_found() -> None:
    def failed(why: str, *rows: Row, on_death: str = "again") -> str:
        return violations(
            [asking(on_death=on_death), MADE, *rows, reply("dead", ask="i", why=why)], [replied(ended="dead")]
        )

    assert "failed without cause" in failed("retries exhausted", *ran())
    assert failed("retries exhausted", *ran("unable")) == ""
    assert "failed without cause" in failed("worker died", row("answering", delivery="d", fallback=False))
    assert failed("worker died", row("answering", delivery="d", fallback=False), on_death="fail") == ""


def test_a_question_that_must_not_run_twice_and_did_is_found() -> None:
    twice = [asking(on_death="fail"), MADE, *ran(), *ran(), reply(ask="i")]
    assert "ran 2 times, although on_death is fail" in violations(twice, [replied()])


def test_a_caller_without_an_answer_is_found_unless_it_was_killed() -> None:
    rows = [asking("ask"), *ran()]
    assert "its caller got no answer" in violations(rows, [])
    assert violations([*rows, strike()], []) == ""
    assert violations([*rows, row("unasked")], []) == ""


def test_a_fallback_of_a_request_that_failed_is_no_violation() -> None:
    assert verdict(DURABLE, [fell_back()]) == AsksVerdict(asks=1, fell_back=1)


def test_a_fallback_of_a_request_that_was_handled_is_found() -> None:
    rows = [asking("durable"), *ran(), *FALLBACK, reply()]
    assert "its caller had the reply, and the fallback ran" in violations(rows, [fell_back()])
    assert "sent although its request was handled" in violations(DURABLE, [fell_back(ended="handled")])
    rows = [asking("durable"), *ran(), *FALLBACK, row("unasked")]
    assert "sent again as dead after 0 ms, without cause" in violations(rows, [fell_back()])


def test_a_fallback_that_is_missing_is_found() -> None:
    rows = [asking("durable"), *ran("unable"), strike()]
    assert "neither answered nor sent again" in violations(rows, [])
    assert "fallback f: sent, and never ran" in violations(rows, [fell_back()])


def test_a_fallback_that_became_a_dead_letter_is_not_missing() -> None:
    rows = [asking("durable"), *ran("unable"), strike()]
    deaths = ({"reason": "killed"},) * 3
    letter = DeadLetter("1-0", b"", "oracle", "poison", delivery_id="f", metadata={"fallback": "q"}, deaths=deaths)
    assert violations(rows, [fell_back()], None, (letter,)) == ""


BEGUN = row("answering", delivery="d", fallback=False)


@pytest.mark.parametrize(
    ("ended", "at_ms", "on_death", "rows", "is_right"),
    [
        pytest.param("dead", 0, "again", ran("unable"), True, id="failed"),
        pytest.param("dead", 500, "again", [BEGUN], True, id="interrupted-by-its-deadline"),
        pytest.param("dead", 500, "again", [], True, id="dead-as-its-deadline-had-passed"),
        pytest.param("dead", 300, "again", [BEGUN], False, id="interrupted-before-its-deadline"),
        pytest.param("timeout", 500, "again", [BEGUN], True, id="timed-out"),
        pytest.param("timeout", 300, "again", [BEGUN], False, id="timed-out-too-soon"),
        pytest.param("expired", 500, "again", [], True, id="expired"),
        pytest.param("expired", 300, "again", [], False, id="expired-too-soon"),
        pytest.param("cancelled", 500, "again", [BEGUN], False, id="cancelled-by-nobody"),
        pytest.param("dead", 300, "fail", [BEGUN, strike("hard")], True, id="its-worker-died"),
        pytest.param("dead", 300, "fail", [BEGUN, strike("hard", pid=8)], False, id="another-worker-died"),
        pytest.param("dead", 300, "fail", [strike("hard", pid=8)], True, id="its-worker-died-before-it-had-begun"),
        pytest.param("dead", 300, "fail", [strike()], False, id="its-asker-died-before-it-had-begun"),
        pytest.param("dead", 300, "again", [BEGUN, strike("hard")], False, id="one-death-of-one-that-runs-again"),
        pytest.param("dead", 300, "again", [BEGUN, BEGUN, strike("hard")], True, id="poison"),
    ],
)
def test_a_fallback_is_sent_for_a_reason_only(
    ended: str, at_ms: int, on_death: str, rows: list[Row], is_right: bool
) -> None:
    asked = [asking("durable", on_death, timeout_s=0.5), *rows, *FALLBACK, row("unasked")]
    found = violations(asked, [fell_back(ended=ended, at_ms=T + at_ms)])
    assert (found == "") is is_right, found
    assert is_right or f"sent again as {ended} after {at_ms} ms" in found


def test_a_call_that_fell_back_before_its_time_out_is_found() -> None:
    def fell(at_ms: int) -> str:
        rows = [asking("durable"), *FALLBACK, reply("fell back", T + at_ms, fallback="f", why="DeliveryTimeout")]
        return violations(rows, [fell_back(ended="timeout", at_ms=T + 8000)])

    assert "timed out after 3000 ms instead of 8000 ms" in fell(3000)
    assert fell(8001) == ""


def test_a_fallback_that_is_sent_twice_or_by_nobody_is_found() -> None:
    assert "fallback f: sent 2 times" in violations(DURABLE, [fell_back(), fell_back()])
    again = [*DURABLE, *ran(delivery="g", fallback=True)]
    assert "2 fallbacks: ['f', 'g']" in violations(again, [fell_back()])
    unsent = [asking("durable"), *ran("unable"), *FALLBACK, reply("dead", why="retries exhausted")]
    assert "fallback f ran, and was never sent" in violations(unsent, [])
    assert violations([*unsent[:-1], strike()], []) == "", "its caller may have sent it before it was killed"


def test_asks_that_are_open_or_not_counted_are_found() -> None:
    assert "1 asks of oracle are open at the end" in violations(THEN, [replied()], CallCounts("oracle", 1))
    assert "Redis counts 2 asks; 1 to 1 were made" in violations(THEN, [replied()], CallCounts("oracle", 2, 2))
    few = CallCounts("oracle", 1, 1)
    assert "Redis counts 0 fallbacks, and has recorded 1" in violations(DURABLE, [fell_back()], few)


def test_a_letter_without_a_cause_is_found() -> None:
    def letter(reason: str, deaths: int, queue: str = "keeper") -> DeadLetter:
        return DeadLetter("1-0", b"", queue, reason, delivery_id="d", deaths=({"reason": "killed"},) * deaths)

    assert "dead letter without cause" in violations(THEN, [replied()], None, (letter("retries exhausted", 0),))
    assert violations(THEN, [replied()], None, (letter("poison", 3),)) == ""
    assert violations(THEN, [replied()], None, (letter("deadline passed", 0, "voter-a"),)) == "", "a vote has an end"


def test_a_question_that_nobody_has_asked_is_found() -> None:
    assert "nobody has asked it" in violations(ran(), [])
