"""The judge of leases finds what it is there to find."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.judge_leases import LeasesVerdict, judge_leases
from chaos.redis_record import Recorded
from chaos.witness import Row

T = 1_000_000
LEASE, API, GPU, LEDGER = "lease:ledger", "semaphore:api", "pool:gpu", "lease:ledger:"


def granted(name: str, owner: str, fence: int, at_ms: int = T) -> Recorded:
    return Recorded(at_ms, "lease_granted", (*name.split(":"), owner, str(fence)))


def ended(name: str, owner: str, fence: int, at_ms: int = T) -> Recorded:
    return Recorded(at_ms, "lease_ended", (*name.split(":"), owner, str(fence), "released"))


def row(what: str, at_ms: int = T, pid: int = 7, **note: Any) -> Row:
    return Row(at_ms, what, pid=pid, note=note)


def held(name: str, owner: str, fence: int, resource: str = "") -> Row:
    return row("held", name=name, owner=owner, fence=fence, resource=resource)


def wrote(owner: str, fence: int, *, accepted: bool = True, pid: int = 7, at_ms: int = T) -> Row:
    return row("wrote", at_ms, pid, register=LEDGER, owner=owner, fence=fence, accepted=accepted)


def strike(kind: str, at_ms: int, pid: int = 7) -> Row:
    return row("strike", at_ms, pid, kind=kind, pids=[pid])


def verdict(record: list[Recorded], rows: list[Row] = []) -> LeasesVerdict:  # noqa: B006
    return judge_leases(rows, record)


def violation(record: list[Recorded], rows: list[Row] = []) -> str:  # noqa: B006
    (found,) = verdict(record, rows).violations
    return found


ONE_AFTER_THE_OTHER = [
    granted(LEASE, "a", 10),
    ended(LEASE, "a", 10),
    granted(LEASE, "b", 11),
    ended(LEASE, "b", 11),
    granted("election:scheduler", "a", 10),
    ended("election:scheduler", "a", 10),
]


def test_grants_one_after_the_other_are_no_violation() -> None:
    rows = [held(LEASE, "a", 10), wrote("a", 10), held(LEASE, "b", 11), wrote("b", 11)]
    assert verdict(ONE_AFTER_THE_OTHER, rows) == LeasesVerdict(grants=3, terms=1)


def test_two_holders_at_once_are_found() -> None:
    record = [granted(LEASE, "a", 10), granted(LEASE, "b", 11), ended(LEASE, "a", 10), ended(LEASE, "b", 11)]
    assert "held by 2 at once: a (10), b (11)" in violation(record)


def test_as_many_holders_as_there_are_permits_may_be_and_no_more() -> None:
    two = [granted(API, "a", 10), granted(API, "b", 11)]
    ends = [ended(API, "a", 10), ended(API, "b", 11)]
    assert verdict(two + ends).violations == ()
    assert "held by 3 at once" in violation([*two, granted(API, "c", 12), *ends, ended(API, "c", 12)])


@pytest.mark.parametrize("fence", [9, 10])
def test_a_token_that_does_not_grow_is_found(fence: int) -> None:
    record = [granted(LEASE, "a", 10), ended(LEASE, "a", 10), granted(LEASE, "b", fence), ended(LEASE, "b", fence)]
    assert f"token {fence} was granted after 10" in violation(record)


def test_what_is_held_at_the_end_is_found() -> None:
    assert "held by a (10) at the end" in violation([granted(LEASE, "a", 10)])


def test_an_end_of_what_was_not_held_is_found() -> None:
    assert "ended for a (10)" in violation([*ONE_AFTER_THE_OTHER, ended(LEASE, "a", 10)])


def test_a_holder_that_redis_does_not_know_is_found() -> None:
    assert "not on Redis' record" in violation(ONE_AFTER_THE_OTHER, [held(LEASE, "a", 12)])
    assert "was granted to a" in violation(ONE_AFTER_THE_OTHER, [held(LEASE, "b", 10)])


def test_a_resource_that_is_held_twice_is_found() -> None:
    both = [granted(GPU, "a", 10), granted(GPU, "b", 11), ended(GPU, "a", 10), ended(GPU, "b", 11)]
    rows = [held(GPU, "a", 10, "gpu0"), held(GPU, "b", 11, "gpu1")]
    assert verdict(both, rows).violations == ()
    assert "pool:gpu gpu0: held by a (10) and b (11) at once" in violation(
        both, [held(GPU, "a", 10, "gpu0"), held(GPU, "b", 11, "gpu0")]
    )


def test_a_smaller_token_that_the_register_accepted_after_a_larger_one_is_found() -> None:
    rows = [wrote("b", 11), wrote("a", 10)]
    assert "accepted token 10 after 11" in violation(ONE_AFTER_THE_OTHER, rows)


def test_two_writers_with_one_token_are_found() -> None:
    assert "wrote with the same token 10" in violation(ONE_AFTER_THE_OTHER, [wrote("a", 10), wrote("b", 10)])


def test_a_late_write_of_a_process_that_was_not_struck_is_found() -> None:
    late = [wrote("b", 11), wrote("a", 10, accepted=False, at_ms=T + 100)]
    assert "a, never struck, wrote with token 10 after 11" in violation(ONE_AFTER_THE_OTHER, late)
    for kind, pid in (("contender-freeze", 7), ("redis", 0)):
        found = verdict(ONE_AFTER_THE_OTHER, [strike(kind, T + 50, pid), *late])
        assert (found.violations, found.refused) == ((), 1)
    assert verdict(ONE_AFTER_THE_OTHER, [strike("contender-freeze", T + 50, pid=8), *late]).violations


def test_a_check_that_finds_an_ended_lease_held_is_found() -> None:
    record = [granted(LEASE, "a", 10), ended(LEASE, "a", 10, T + 100)]

    def checked(asked_ms: int) -> Row:
        return row("checked", name=LEASE, fence=10, held=True, asked_ms=asked_ms)

    assert verdict(record, [checked(T + 90)]).violations == ()
    assert "held, 300 ms after it had ended" in violation(record, [checked(T + 400)])


def test_a_request_in_line_that_was_overtaken_is_found() -> None:
    record = ONE_AFTER_THE_OTHER[:4]

    def request(token: str) -> Row:
        return row("requests", name=LEASE, token=token)

    def in_line(token: str) -> Row:
        return row("in line", name=LEASE, token=token)

    def got(token: str, fence: int) -> Row:
        return row("granted", name=LEASE, token=token, fence=fence)

    grants = [got("second", 10), got("first", 11)]
    overtaken = [request("first"), in_line("first"), request("second"), *grants]
    assert "request first (11) was overtaken by a later one (10)" in violation(record, overtaken)
    at_once = [request("first"), request("second"), in_line("first"), *grants]
    assert verdict(record, at_once).violations == (), "nobody knows which of them came first"
    assert verdict(record, [strike("contender-stop", T), *overtaken]).violations == ()
