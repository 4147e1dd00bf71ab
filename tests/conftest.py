"""Fixtures that every test may use."""

import os
from collections.abc import Iterator

import pytest

from orchestrator.embedded import EmbeddedServer
from orchestrator.embedded.binary import find_server_binary, server_version
from tests.support.emptied_redis import empty
from tests.support.quiet_endings import drop_results_without_redis, format_errors_without_parsing

drop_results_without_redis()
format_errors_without_parsing()


def pytest_report_header() -> str:
    """Say which server the tests run on: the first one on PATH, or else the bundled one."""
    binary = find_server_binary()
    return f"redis: {binary} {'.'.join(map(str, server_version(binary)))}"


@pytest.fixture(scope="session", autouse=True)
def _health_directory(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Workers that are killed leave their health files; not where those of this machine are."""
    folder = tmp_path_factory.mktemp("health")
    os.environ["ORCHESTRATOR_HEALTH_DIR"] = str(folder)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedServer]:
    """One Redis server for the whole run. A test that kills or pauses a server starts its own."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedServer) -> str:
    """The URL of an empty database on the shared server."""
    empty(redis_server.url)
    return redis_server.url
