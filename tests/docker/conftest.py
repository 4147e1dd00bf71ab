"""The image and the stack, built and started once for all tests here."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.docker.stack import Stack, docker, engine_answers


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The image, built from the working tree."""
    if not engine_answers():
        pytest.skip("no Docker engine with Compose answers")
    name = f"orchestrator-test-{secrets.token_hex(4)}"
    # The host's network, because a proxy or a mirror on it may be the only way to the package index.
    docker("build", "--network", "host", "--file", "docker/Dockerfile", "--tag", name, ".")
    yield name
    docker("image", "rm", "--force", name)


@pytest.fixture(scope="session")
def started_stack(image: str) -> Iterator[Stack]:
    """The stack, somehow."""
    stack = Stack(image, image)
    yield stack
    stack.down()


@pytest.fixture
def stack(started_stack: Stack) -> Stack:
    """The stack with everything running, whatever the test before did to it."""
    started_stack.up()
    return started_stack
