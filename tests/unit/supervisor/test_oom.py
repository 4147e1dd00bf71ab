"""The kernel's count of processes that it has killed for want of memory."""

from __future__ import annotations

import pytest

from orchestrator.supervisor import oom
from orchestrator.supervisor.oom import OomKills


@pytest.fixture
def events(tmp_path, monkeypatch):
    file = tmp_path / "memory.events"
    file.write_text("low 0\noom 3\noom_kill 2\n")
    monkeypatch.setattr(oom, "_events_file", lambda: file)
    return file


def test_a_kill_is_seen_once(events):
    kills = OomKills()
    assert not kills.have_risen()
    events.write_text("oom_kill 3\n")

    assert kills.have_risen()
    assert not kills.have_risen()


def test_those_before_a_start_are_none_of_its(events):
    kills = OomKills()
    events.write_text("oom_kill 3\n")
    kills.look()

    assert not kills.have_risen()


@pytest.mark.parametrize("content", ["", "oom_kill\n", "oom_kill x\n"])
def test_a_count_that_cannot_be_read_is_none(events, content):
    events.write_text(content)
    kills = OomKills()
    events.write_text("oom_kill 9\n")

    assert not kills.have_risen()


def test_without_a_control_group(monkeypatch):
    monkeypatch.setattr(oom, "_events_file", lambda: None)

    assert not OomKills().have_risen()
