"""What the kernel says of its OOM kills: who was killed, where its log can be read; else how many there were."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.supervisor.processes import oom
from orchestrator.supervisor.processes.oom import OomKill, OomKills
from tests.support.many_files import many_open_files

#: As Linux 6.18 writes it, and what others have written.
BY_GROUP = "3,430,2633031349,-;Memory cgroup out of memory: Killed process 27062 (python) total-vm:686584kB, UID:0\n"
BY_HOST = "3,17,12,-;Out of memory: Killed process 27062 (python) total-vm:1kB, anon-rss:1kB, UID:0 oom_score_adj:0\n"
CHOSEN = "6,429,2633031303,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),task=python,pid=27062,uid=0\n"
BY_A_PROCESS = "12,431,9,-;Out of memory: Killed process 27062 (python)\n"
OTHERS = (
    "6,421,2633031028,-;[  27062]     0 27062   171646    95475    91102     4373         0   864256        0 python\n"
)


class Kernel:
    """Its two files."""

    def __init__(self, folder: Path) -> None:
        self.events, self.log = folder / "memory.events", folder / "kmsg"
        self.events.write_text("low 0\noom 3\noom_kill 2\n")
        self.log.write_text(BY_GROUP)

    def kills(self, *records: str, count: int = 3) -> None:
        with self.log.open("a") as log:
            log.write("".join(records))
        self.events.write_text(f"oom_kill {count}\n")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel(tmp_path)
    monkeypatch.setattr(oom, "_events_file", lambda: made.events)
    monkeypatch.setattr(oom, "_KERNEL_LOG", made.log)
    monkeypatch.setattr(oom, "_KERNELS_IDS", Path("/proc/self/ns/pid").stat().st_ino)
    return made


@pytest.fixture
def silent(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """As in a container, where there is no log."""
    monkeypatch.setattr(oom, "_KERNEL_LOG", Path("/nowhere"))
    return kernel


@pytest.mark.parametrize("record", [BY_GROUP, BY_HOST, CHOSEN, OTHERS + CHOSEN + BY_GROUP])
def test_the_victim_that_the_log_names_was_killed_for_memory(kernel: Kernel, record: str) -> None:
    kills = OomKills()
    kernel.kills(record)

    assert kills.has_killed(27062) is OomKill.YES
    assert kills.has_killed(27062) is OomKill.NO


@pytest.mark.parametrize("record", ["", OTHERS, BY_A_PROCESS])
def test_a_victim_that_the_log_does_not_name_was_not(kernel: Kernel, record: str) -> None:
    kills = OomKills()
    kernel.kills(record)

    assert kills.has_killed(27062) is OomKill.NO


def test_a_supervisor_with_many_open_files_reads_the_log(kernel: Kernel) -> None:
    """Regression: `select.select` refused its number."""
    with many_open_files():
        kills = OomKills()
        kernel.kills()

        assert kills.has_killed(27062) is OomKill.NO


def test_a_sibling_that_was_killed_for_memory_is_not_taken_for_this_process(kernel: Kernel) -> None:
    kills = OomKills()
    kernel.kills(BY_GROUP)

    assert kills.has_killed(4711) is OomKill.NO
    assert kills.has_killed(27062) is OomKill.YES


def test_an_earlier_process_of_the_same_id_is_another_one(kernel: Kernel) -> None:
    kills = OomKills()
    kernel.kills(BY_GROUP)
    kills.began(27062)

    assert kills.has_killed(27062) is OomKill.NO


def test_a_log_with_other_process_ids_is_not_read(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oom, "_KERNELS_IDS", 0)
    kills = OomKills()
    kernel.kills(BY_GROUP)

    assert kills.has_killed(27062) is OomKill.PERHAPS


def test_a_log_that_has_lost_records_proves_nothing(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = OomKills()
    kernel.kills(BY_GROUP)
    read = os.read
    lost = iter([BrokenPipeError])

    def overtaken(descriptor: int, size: int) -> bytes:
        if (error := next(lost, None)) is not None:
            raise error
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", overtaken)
    assert kills.has_killed(4711) is OomKill.PERHAPS


def test_without_the_log_a_count_that_has_risen_is_a_hint_once(silent: Kernel) -> None:
    kills = OomKills()
    assert kills.has_killed(27062) is OomKill.NO
    silent.kills()

    assert kills.has_killed(27062) is OomKill.PERHAPS
    assert kills.has_killed(27063) is OomKill.NO


def test_kills_before_a_start_are_none_of_its(silent: Kernel) -> None:
    kills = OomKills()
    silent.kills()
    kills.began(27062)

    assert kills.has_killed(27062) is OomKill.NO


@pytest.mark.parametrize("content", ["", "oom_kill\n", "oom_kill x\n"])
def test_a_count_that_cannot_be_read_is_none(silent: Kernel, content: str) -> None:
    silent.events.write_text(content)
    kills = OomKills()
    silent.kills(count=9)

    assert kills.has_killed(27062) is OomKill.NO


def test_without_a_control_group(silent: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oom, "_events_file", lambda: None)

    assert OomKills().has_killed(27062) is OomKill.NO
