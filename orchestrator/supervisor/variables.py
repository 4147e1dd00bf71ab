"""Variables in the environment of each process of a tree."""

from __future__ import annotations

#: The tree's state directory.
TREE_VARIABLE = "ORCHESTRATOR_TREE"

#: The child's path and run.
CHILD_VARIABLE = "ORCHESTRATOR_TREE_CHILD"
