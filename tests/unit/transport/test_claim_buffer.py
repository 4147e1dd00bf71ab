"""What was claimed ahead waits for a slot, and goes back if it gets none soon."""

from __future__ import annotations

import threading

from orchestrator.transport.claim_buffer import Buffered, ClaimBuffer
from orchestrator.transport.liveness.claim import Claim
from tests.support.eventually import eventually


class Requeued:
    """Takes what a buffer requeues."""

    def __init__(self) -> None:
        self.items: list[Buffered] = []
        self.came = threading.Event()

    def __call__(self, items: list[Buffered]) -> None:
        self.items += items
        self.came.set()


def buffered(name: str, *, ahead: bool) -> Buffered:
    return Claim(name, name, "stream", "queue", 0, ahead=ahead), b""


def names(items: list[Buffered]) -> list[str]:
    return [claim.tag for claim, _ in items]


def test_what_was_claimed_ahead_is_requeued_in_order_and_nothing_else() -> None:
    requeued = Requeued()
    buffer = ClaimBuffer(requeued)
    buffer.extend([buffered("1", ahead=False), buffered("2", ahead=True), buffered("3", ahead=True)])
    assert requeued.came.wait(10)
    assert names(requeued.items) == ["2", "3"]
    assert names(buffer.pop_all()) == ["1"]
    buffer.close()


def test_each_batch_has_its_time() -> None:
    requeued = Requeued()
    buffer = ClaimBuffer(requeued)
    for name in ("1", "2"):
        requeued.came.clear()
        buffer.extend([buffered(name, ahead=True)])
        assert requeued.came.wait(10)
    assert names(requeued.items) == ["1", "2"]
    buffer.close()


def test_an_error_while_requeuing_does_not_end_it() -> None:
    requeued, fails = Requeued(), [True]

    def requeue(items: list[Buffered]) -> None:
        requeued(items)
        if fails.pop():
            raise RuntimeError("Redis is away")

    buffer = ClaimBuffer(requeue)
    buffer.extend([buffered("1", ahead=True)])
    assert requeued.came.wait(10)
    requeued.came.clear()
    fails.append(False)
    buffer.extend([buffered("2", ahead=True)])
    assert requeued.came.wait(10)
    assert names(requeued.items) == ["1", "2"]
    buffer.close()


def test_whoever_takes_a_message_out_has_it_alone() -> None:
    requeued = Requeued()
    buffer = ClaimBuffer(requeued)
    buffer.extend([buffered(str(number), ahead=True) for number in range(1000)])
    taken: list[list[str]] = [[], []]

    def take(into: list[str]) -> None:
        while (item := buffer.pop()) is not None:
            into.append(item[0].tag)

    threads = [threading.Thread(target=take, args=(into,)) for into in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def everywhere() -> list[str]:
        return sorted([*taken[0], *taken[1], *names(requeued.items)], key=int)

    # The buffer's own thread may have taken some, and not yet requeued them.
    eventually(lambda: everywhere() == [str(number) for number in range(1000)], describe=lambda: str(everywhere()))
    buffer.close()


def test_without_claims_ahead_there_is_no_thread() -> None:
    # Not all threads: those of the tests before begin and end when they like.
    before = set(threading.enumerate())
    buffer = ClaimBuffer(Requeued())
    buffer.extend([buffered("1", ahead=False)])
    assert not [one for one in set(threading.enumerate()) - before if one.name == "orchestrator-claims"]
    assert names(buffer.pop_last(5)) == ["1"]
    assert buffer.pop() is None
