"""What a run says of how soon the messages of a killed worker ran elsewhere."""

from __future__ import annotations

from typing import Any

from chaos.judge import Evidence, Verdict, judge
from chaos.witness import Row
from orchestrator.registry.registry import Death
from orchestrator.sending.ledger import LedgerRow

T = 1_000_000


def verdict(*rows: Row, deaths: tuple[Death, ...] = ()) -> Verdict:
    accepted = sum(row.what == "accepted" for row in rows)
    ledger = LedgerRow("busy", accepted=accepted, handled=accepted)
    in_order = sorted(rows, key=lambda row: row.at_ms)
    return judge(Evidence(in_order, [ledger], ("busy",), (), deaths=deaths))


def sent(name: str, **note: Any) -> list[Row]:
    return [Row(T, "intent", name, note={"kind": "plain", **note}), Row(T + 2, "accepted", name)]


def ran(name: str, at_ms: int, pid: int) -> list[Row]:
    return [Row(at_ms, what, name, 1, pid, 1, "w") for what in ("start", "done")]


def struck(at_ms: int, pid: int = 7, kind: str = "hard", **note: Any) -> Row:
    return Row(at_ms + 1, "strike", pid=pid, node="w", note={"kind": kind, "pids": [pid], "killed_ms": at_ms, **note})


def serves(at_ms: int, pid: int = 5) -> Row:
    return Row(at_ms, "serves", pid=pid, node=f"w{pid}")


def test_recovery_is_measured_to_the_last_message_that_the_victim_held() -> None:
    said = verdict(
        serves(T),
        *(*sent("a"), *sent("b"), struck(T + 99, held=["a", "b"])),
        *(*ran("a", T + 599, pid=5), *ran("b", T + 1099, pid=5)),
    )
    assert said.recovered_s == (1.0,)
    assert said.tardy == ()


def test_time_in_which_no_other_worker_served_does_not_count() -> None:
    said = verdict(
        # The victim alone serves until 10 s later, when the one that ends the wait serves for 0.4 s.
        *(serves(T, pid=7), *sent("a"), struck(T + 99, held=["a"])),
        *(serves(T + 10_099), *ran("a", T + 10_499, pid=5)),
    )
    assert said.recovered_s == (0.4,)
    (tardy,) = said.tardy
    assert tardy.startswith("10.40 s after the kill of w, in which another worker served for 0.40 s: a (plain")


def test_time_in_which_several_served_counts_once() -> None:
    said = verdict(
        *(serves(T, pid=5), serves(T + 500, pid=6), *sent("a"), struck(T + 1000, held=["a"])),
        *(struck(T + 3000, pid=5, kind="warm"), Row(T + 4000, "fell", pid=6, node="w"), serves(T + 9000, pid=8)),
        *ran("a", T + 10_000, pid=8),
    )
    assert said.recovered_s == (4.0,)


def test_a_stopped_worker_does_not_serve_until_it_goes_on() -> None:
    said = verdict(
        *(serves(T), *sent("a"), struck(T + 1000, held=["a"]), struck(T + 2000, pid=5, kind="stop")),
        *(Row(T + 4000, "continued", pid=5, node="w5"), struck(T + 4500, pid=5, kind="child")),
        *ran("a", T + 5000, pid=5),
    )
    assert said.recovered_s == (2.0,)


def test_the_story_of_a_late_message_says_who_claimed_it_whose_death_was_recorded_and_who_served() -> None:
    claims = [
        Row(T + 50, "claimed", "a", 0, 7, 1, "w", {"incarnation": "w@h:7#1", "alone": False}),
        Row(T + 3000, "claimed", "a", 0, 5, 1, "w5", {"incarnation": "w5@h:5#2", "alone": True}),
    ]
    death = Death("w@h:7#1", "killed", "supervisor@h", T + 150)
    other = Death("x@h:9#3", "killed", "supervisor@h", T + 150)
    (tardy,) = verdict(
        *(serves(T), *sent("a"), *claims, struck(T + 99, held=["a"]), *ran("a", T + 33_000, pid=5)),
        deaths=(death, other),
    ).tardy
    assert tardy.splitlines()[1:] == [
        "       0.000 s  intent",
        "       0.002 s  accepted",
        "       0.050 s  claimed by w@h:7#1",
        "       0.100 s  KILL hard of w (pid 7), held it",
        "       0.150 s  w@h:7#1 is on record as killed, by supervisor@h",
        "       3.000 s  claimed by w5@h:5#2, to run alone",
        "      33.000 s  start attempt 1 on w (pid 5 of 1)",
        "      33.000 s  done attempt 1 on w (pid 5 of 1)",
        "       0.000 s  w5 (pid 5) serves, until 33.000 s",
    ]


def test_a_message_whose_next_holder_is_killed_too_has_its_time_from_there() -> None:
    said = verdict(
        *(serves(T), *sent("a"), struck(T + 100, held=["a"])),
        Row(T + 1100, "fell", pid=8, node="v", note={"held": ["a"]}),
        Row(T + 1050, "start", "poison", 1, 8, 1, "v", {"poison": True}),
        *(struck(T + 2100, pid=9, held=["a"]), *ran("a", T + 2800, pid=5)),
    )
    assert said.recovered_s == (0.7,)


def test_a_message_says_nothing_of_recovery_if_the_supervisor_and_all_workers_with_it_are_killed_meanwhile() -> None:
    kill = Row(T + 3000, "strike", pid=2, node="supervisor", note={"kind": "supervisor"})
    said = verdict(serves(T), *sent("a"), struck(T + 99, held=["a"]), kill, *ran("a", T + 9000, pid=5))
    assert (said.recovered_s, said.tardy) == ((), ())


def test_a_message_that_others_go_before_says_nothing_of_recovery() -> None:
    said = verdict(serves(T), *sent("a", priority=9), struck(T + 99, held=["a"]), *ran("a", T + 5099, pid=5))
    assert (said.recovered_s, said.tardy) == ((), ())


def test_a_retry_that_waits_in_its_mailbox_says_nothing_of_recovery() -> None:
    """Regression: the retry was recorded after the run had asked what the victim held, and before the kill."""
    failed = [Row(T + at, what, "a", 1, 7, 1, "w") for at, what in ((40, "start"), (45, "fail"))]
    again = Row(T + 9000, "start", "a", 2, 5, 1, "w")
    said = verdict(serves(T), *sent("a"), *failed, struck(T + 99, held=["a"]), again)
    assert (said.recovered_s, said.tardy) == ((), ())


def test_a_failed_attempt_that_was_not_recorded_is_requeued_as_any_other() -> None:
    failed = [Row(T + at, what, "a", 1, 7, 1, "w") for at, what in ((40, "start"), (45, "fail"))]
    said = verdict(serves(T), *sent("a"), *failed, struck(T + 99, held=["a"]), *ran("a", T + 599, pid=5))
    assert said.recovered_s == (0.5,)
