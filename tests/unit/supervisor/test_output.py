"""What is written to the terminal, and what becomes of it when that takes nothing."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime

import pytest

from orchestrator.supervisor.processes.output import ChildOutput, Console
from tests.support.many_files import many_open_files


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


def test_a_supervisor_with_many_open_files_writes_the_last_lines():
    """Regression: `select.select` refused the number of its output."""
    with many_open_files():
        reader, writer = os.pipe()
        console = Console(writer, colours=False)
        console.line("a", b"last")
        console.drain()
        os.close(writer)
        assert os.read(reader, 1000) == b"a                | last\n"
        os.close(reader)


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

    assert os.read(reader, 1000).endswith(b"] a: not started: \\x1b[2J\\nall are ready\\udc80\n")


def test_what_a_child_writes_cannot_steer_a_terminal_either_but_for_colours(pipe):
    reader, writer = pipe
    console = Console(writer, colours=False)
    child_reader, child = os.pipe()
    output = ChildOutput("a", console)
    os.write(child, b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07\x1b[2J\tb\rforged | line\x00\xc2\x9b2J \xc3\xa9\r\n")
    os.close(child)
    while output.read(child_reader):
        pass
    os.close(child_reader)
    console.drain()

    safe = b"\x1b[1;31mred\x1b[0m \\x1b]0;title\\x07\\x1b[2J\tb\\x0dforged | line\\x00\\xc2\\x9b2J \xc3\xa9"
    assert os.read(reader, 1000) == b"a                | " + safe + b"\n"
    assert output.last_words() == [safe.decode()], "as `logs` and `why` show it"


def test_lines_of_the_supervisor_and_of_the_death_recorder_have_the_time_of_day_as_workers_log_it(pipe):
    reader, writer = pipe
    console = Console(writer, colours=False)
    before = datetime.now(UTC).astimezone().replace(microsecond=0)
    console.say("all are ready")
    ChildOutput("death recorder", console, with_time=True).say("mailboxes on hold: billing")
    console.drain()

    lines = os.read(reader, 1000).decode().splitlines()
    shown = [re.fullmatch(r"(\S.{15}) \| \[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3}\] (.*)", line) for line in lines]
    assert [(one[1].strip(), one[3]) for one in shown if one] == [
        ("supervise", "all are ready"), ("death recorder", "mailboxes on hold: billing"),
    ]  # fmt: skip
    times = [datetime.fromisoformat(one[2]).astimezone() for one in shown if one]
    assert all(before <= at <= datetime.now(UTC) for at in times)


def test_of_many_children_fewer_lines_are_kept_and_of_each_the_last_one(pipe):
    """Regression: with 200 children, whose lines are longer than these, it was all of the memory that is allowed."""
    console = Console(pipe[1], colours=False)
    outputs = [ChildOutput(f"c{number}", console) for number in range(256)]
    for number in range(300):
        outputs[0].say(f"{number:03} " + "x" * 96)
    kept = outputs[0].lines.last()
    assert sum(map(len, kept)) <= 2048
    assert [line[:3] for line in kept] == [b"%03d" % number for number in range(300 - len(kept), 300)]
    outputs[1].say("y" * 4000)
    outputs[1].say("z" * 4000)
    assert outputs[1].lines.last() == [b"z" * 4000]
    for output in outputs[2:]:
        output.close()
    for number in range(500):
        outputs[0].say(f"{number}")
    assert outputs[0].lines.last() == [b"%d" % number for number in range(300, 500)]
    assert outputs[0].lines.last(2) == [b"498", b"499"]
    assert outputs[0].last_words() == ["495", "496", "497", "498", "499"]
