"""What a run believes of the processes that a supervisor starts."""

from __future__ import annotations

import os
from typing import Any

from chaos.tree import TreeMember


class OneChild:
    """A tree that has started a child."""

    pid = 0

    def pid_of(self, name: str) -> int:
        return self.pid


def test_a_start_is_seen_once_even_if_somebody_has_looked_before() -> None:
    tree: Any = OneChild()
    member = TreeMember("solo-1", tree)
    assert (member.pid, member.is_running, member.restart()) == (0, False, False)
    tree.pid = os.getpid()
    assert (member.pid, member.is_running) == (os.getpid(), True)
    assert (member.restart(), member.restart()) == (True, False)
    tree.pid = 1
    assert member.pid == os.getpid(), "it is the process that was its last when the run looked"
    assert (member.restart(), member.pid) == (True, 1)
