"""The kernel's count of OOM kills, as cgroup v2 and v1 keep it."""

from pathlib import Path

import pytest

from orchestrator.transport.liveness.oom import OomCounter

V2 = "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"


def kernel(tmp_path: Path, cgroup: str, file: str, text: str) -> OomCounter:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text(cgroup)
    (proc / "sys/kernel/random").mkdir(parents=True)
    (proc / "sys/kernel/random/boot_id").write_text("boot\n")
    (groups / file).parent.mkdir(parents=True)
    (groups / file).write_text(text)
    return OomCounter(proc, groups)


@pytest.mark.parametrize(
    ("cgroup", "file", "text"),
    [
        ("0::/system.slice/w.service\n", "system.slice/w.service/memory.events", V2),
        # In a container, whose group is its root.
        ("0::/\n", "memory.events", V2),
        ("4:memory:/docker/abc\n0::/\n", "memory/docker/abc/memory.oom_control", V1),
        ("4:memory:/docker/abc\n0::/\n", "memory/memory.oom_control", V1),
    ],
)
def test_the_count_is_found(tmp_path: Path, cgroup: str, file: str, text: str) -> None:
    counter = kernel(tmp_path, cgroup, file, text)
    assert counter.read() == 2
    assert counter.group.startswith("boot:")
    (tmp_path / "cgroup" / file).write_text(text.replace("oom_kill 2", "oom_kill 3"))
    assert counter.read() == 3


@pytest.mark.parametrize("text", ["", "oom_kill many\n", "oom_kill_disable 0\nunder_oom 0\n"])
def test_a_kernel_that_does_not_count_is_no_error(tmp_path: Path, text: str) -> None:
    assert kernel(tmp_path, "0::/\n", "memory.events", text).read() is None


def test_neither_is_a_system_without_control_groups(tmp_path: Path) -> None:
    counter = OomCounter(tmp_path, tmp_path)
    assert (counter.read(), counter.group) == (None, "")
