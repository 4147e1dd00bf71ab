"""What a function raises that the loop has called is logged, and ends nothing."""

from __future__ import annotations

import os

import pytest

from orchestrator.supervisor.loop import Loop


@pytest.fixture
def raised():
    return []


@pytest.fixture
def loop(raised):
    loop = Loop()
    loop.on_error = raised.append
    return loop


def fail():
    raise ValueError("no")


def test_a_timer_that_raises(loop, raised):
    called = []
    loop.after(0, fail)
    loop.after(0, lambda: called.append(1))
    loop.wait(None)
    loop.wait(0)

    assert [str(error) for error in raised] == ["no"]
    assert called == [1]


def test_a_file_that_always_raises_is_given_up(loop, raised):
    reader, writer = os.pipe()
    os.write(writer, b"x")
    loop.on(reader, fail)
    for _ in range(50):
        loop.wait(0)

    assert len(raised) == 10
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_a_file_that_raises_now_and_then_is_not(loop, raised):
    reader, writer = os.pipe()
    turns = iter(range(100))
    os.write(writer, b"x")
    loop.on(reader, lambda: fail() if next(turns) % 2 else None)
    for _ in range(50):
        loop.wait(0)

    assert len(raised) == 25
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_a_time_that_the_kernel_cannot_wait_for(loop):
    loop.after(1e300, fail)
    loop.after(0, lambda: None)
    loop.wait(1e300)
