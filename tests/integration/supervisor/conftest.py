from __future__ import annotations

import contextlib

import pytest

from tests.support.supervised import Supervised, toml


@pytest.fixture
def supervise(tmp_path):
    """Starts trees; all of them have ended after the test, with everything that they started."""
    with contextlib.ExitStack() as stack:

        def start(children, *arguments, environment=None, of_all=None, prefix=(), **root) -> Supervised:
            definition = toml(children, **root, **({"environment": of_all} if of_all else {}))
            tree = Supervised(tmp_path, definition, *arguments, environment=environment, prefix=prefix)
            stack.callback(tree.close)
            return tree

        yield start
