"""Fixtures that every test may use."""

import os
import re
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from orchestrator.embedded import EmbeddedServer
from orchestrator.embedded.binary import find_server_binary, server_version
from tests.support import shared_processes
from tests.support.drawn_examples import load_profiles, mark_drawn
from tests.support.emptied_redis import empty
from tests.support.escaping_timeouts import let_timeouts_escape
from tests.support.own_ports import choose_own_ports
from tests.support.quiet_endings import drop_results_without_redis, format_errors_without_parsing
from tests.support.shared_tasks import forgotten_afterwards

load_profiles()
choose_own_ports()
drop_results_without_redis()
format_errors_without_parsing()


#: Pools whose cases are slow ones (see `make test-slow`) in tests that have prefork or solo too.
POOLS_APART = {"gevent", "threads"}

_HAS_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave two pools of four to the slow run: hundreds of workers take most of the time of all tests."""
    mark_drawn(items)
    pools = {item: _pool_of(item) for item in items}
    in_both = {_function_of(item) for item, pool in pools.items() if pool and pool not in POOLS_APART}
    for item, pool in pools.items():
        if pool in POOLS_APART and _function_of(item) in in_both:
            item.add_marker(pytest.mark.slow)


def _pool_of(item: pytest.Item) -> str:
    names = re.findall(r"\w+", item.name.partition("[")[2])
    return next((name for name in names if name in {*POOLS_APART, "prefork", "solo"}), "")


def _function_of(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of all workers that run when a test fails."""
    report = yield
    if report.failed:
        item.stash[_HAS_FAILED] = True
        report.sections += shared_processes.open_logs()
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Repair what a failed test has left of the processes that it shares with the next."""
    try:
        return (yield)
    finally:
        if item.stash.get(_HAS_FAILED, False):
            shared_processes.restore()


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_set_timer() -> Generator[None, Any, Any]:
    """See ``escaping_timeouts``."""
    result = yield
    let_timeouts_escape()
    return result


def pytest_report_header() -> str:
    """Say which server the tests run on: the first one on PATH, or else the bundled one."""
    binary = find_server_binary()
    return f"redis: {binary} {'.'.join(map(str, server_version(binary)))}"


@pytest.fixture(scope="session", autouse=True)
def _health_directory(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Workers that are killed leave their health files; not where those of this machine are."""
    folder = tmp_path_factory.mktemp("health")
    os.environ["ORCHESTRATOR_HEALTH_DIR"] = str(folder)


@pytest.fixture(scope="module", autouse=True)
def _shared_tasks() -> Iterator[None]:
    """What a module's tests share with all apps of the process, those of the next module do not see."""
    with forgotten_afterwards():
        yield


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedServer]:
    """One Redis server for the whole run. A test that kills or pauses a server starts its own."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def own_redis_server() -> Iterator[EmbeddedServer]:
    """A Redis that nobody else uses. Threads that an earlier test has left may still write to the shared one."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture(scope="module")
def counted_server() -> Iterator[EmbeddedServer]:
    """A Redis of a module that counts its commands: what threads of earlier modules send is not among them."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def counted_url(counted_server: EmbeddedServer) -> str:
    """The URL of an empty database there."""
    empty(counted_server.url)
    return counted_server.url


@pytest.fixture
def redis_url(redis_server: EmbeddedServer) -> str:
    """The URL of an empty database on the shared server."""
    empty(redis_server.url)
    return redis_server.url
