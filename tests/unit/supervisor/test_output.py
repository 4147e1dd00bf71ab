"""What is written to the terminal, and what becomes of it when that takes nothing."""

from __future__ import annotations

import os

import pytest

from orchestrator.supervisor.output import ChildOutput, Console


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_lines_that_a_full_disk_does_not_take_are_counted(pipe):
    reader, writer = pipe
    full = os.open("/dev/full", os.O_WRONLY)
    console = Console(full, colours=False)
    for number in range(100):
        console.line("a", b"%d" % number * 50)
    console.drain()
    os.close(full)
    console.descriptor = writer
    console.line("a", b"again")
    console.drain()

    assert os.read(reader, 1000) == b"... 100 lines dropped\na                | again\n"


def test_a_line_that_is_too_long_says_so(pipe):
    reader, writer = pipe
    console = Console(writer, colours=False)
    child_reader, child = os.pipe()
    os.write(child, b"x" * 5000 + b"\nnext\n")
    output = ChildOutput("a", console)
    output.read(child_reader)
    console.drain()
    for descriptor in (child_reader, child):
        os.close(descriptor)

    lines = os.read(reader, 10000).splitlines()
    assert lines == [b"a                | " + b"x" * 4096 + b" ... 904 bytes more", b"a                | next"]
    assert output.last_words()[1] == "next"


def test_what_the_supervisor_quotes_cannot_steer_a_terminal(pipe):
    reader, writer = pipe
    console = Console(writer, colours=False)
    console.say("a: not started: \x1b[2J\nall are ready\udc80")
    console.drain()

    assert os.read(reader, 1000) == b"supervise        | a: not started: \\x1b[2J\\nall are ready\\udc80\n"
