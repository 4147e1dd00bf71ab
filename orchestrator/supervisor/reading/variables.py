"""Variables in the environment of each process of a tree."""

from __future__ import annotations

#: The tree's state directory.
TREE_VARIABLE = "ORCHESTRATOR_TREE"

#: The child's path and run.
CHILD_VARIABLE = "ORCHESTRATOR_TREE_CHILD"

#: The path of the tree's beat; not set if the tree has none.
BEAT_VARIABLE = "ORCHESTRATOR_TREE_BEAT"
