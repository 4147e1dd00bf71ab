"""The beat of a worker's tree. The tree restarts it, so a worker waits before it warns that no beat runs."""

from __future__ import annotations

import os

from orchestrator.supervisor.reading.variables import BEAT_VARIABLE

#: The longest pause before a restart by default, with its jitter, and the start of beat.
RESTART_S = 45.0


def beat_of_tree() -> str:
    """The path of the beat in the tree of this process; empty if there is no tree, or no beat in it."""
    return os.environ.get(BEAT_VARIABLE, "")


def how_to_see_beat() -> str:
    """The command by which an operator finds out about beat, or starts one."""
    beat = beat_of_tree()
    return f"orchestrator tree why {beat}" if beat else "celery -A APP beat"
