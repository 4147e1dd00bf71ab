"""``docker/``, for real: the image is built, the stack runs, and containers are killed and stopped."""

from __future__ import annotations

import json
from functools import partial
from urllib.request import urlopen

import pytest

from tests.docker.stack import Stack, docker, inspect
from tests.support.eventually import eventually

# The first one waits for the image, too.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


def is_healthy(container: str) -> bool:
    """Whether Docker says so."""
    return bool(inspect(container, ".State.Health.Status") == "healthy")


def shuts_down(container: str) -> bool:
    """Whether the worker has heard that it is to stop; only now, not when it started before."""
    return "Warm shutdown" in docker("logs", "--tail", "20", container)


def test_the_image_runs_without_privileges_and_holds_no_tools(image: str) -> None:
    program = (
        "import importlib.util as u, json, os;"
        "print(json.dumps([os.getuid(), [n for n in ('pip', 'pytest', 'mypy', 'tests') if u.find_spec(n)],"
        " [d for d in ('/', '/app', '/opt/venv') if os.access(d, os.W_OK)], sorted(os.listdir('/app'))]))"
    )
    uid, tools, writable, content = json.loads(docker("run", "--rm", "--entrypoint", "python", image, "-c", program))
    assert uid == 10001
    assert (tools, writable) == ([], [])
    assert content == ["config", "workers"]


def test_every_container_becomes_healthy_and_only_flower_is_published_on_loopback(stack: Stack) -> None:
    containers = stack.containers()
    assert len(containers) == 6
    for container in containers:
        eventually(partial(is_healthy, container), timeout_s=90, describe=stack.logs)
    (flower,) = stack.containers("flower")
    published = [
        (container, address["HostIp"], address["HostPort"])
        for container in containers
        for addresses in inspect(container, ".NetworkSettings.Ports").values()
        for address in addresses or ()
    ]
    assert [(container, ip) for container, ip, _ in published] == [(flower, "127.0.0.1")]
    with urlopen(f"http://127.0.0.1:{published[0][2]}/", timeout=10) as answer:
        assert answer.status == 200


def test_health_is_not_claimed_where_no_worker_lives(stack: Stack) -> None:
    (flower,) = stack.containers("flower")
    with pytest.raises(AssertionError, match="no worker runs here"):
        docker("exec", flower, "orchestrator", "health")


def test_work_of_a_killed_container_runs_elsewhere_promptly(stack: Stack) -> None:
    handled = stack.count("handled")
    restarted = stack.count("restarted")
    victim, survivor = stack.containers("auditor")
    # More than one of them prefetches, so that the other has two as well.
    stack.hold_audits(10)
    eventually(lambda: stack.running(victim) == stack.running(survivor) == 2, timeout_s=20, describe=stack.logs)

    killed_at_ms = stack.now_ms()
    docker("kill", victim)
    ((at, death),) = stack.next_deaths()
    assert death["reason"] == "killed"
    assert f"@{victim[:12]}:" in death["incarnation"]
    assert int(at.split("-")[0]) - killed_at_ms < 4000

    stack.release(survivor)
    eventually(lambda: stack.count("handled") == handled + 10, timeout_s=20, describe=stack.logs)
    # Only what was being executed is on the dead worker's account.
    assert stack.count("restarted") == restarted + 2
    assert (stack.count("dead"), stack.waiting()) == (0, 0)


def test_the_dead_are_found_while_the_monitor_manager_is_dead_too(stack: Stack) -> None:
    (manager,) = stack.containers("manager")
    victim, _ = stack.containers("auditor")
    docker("kill", manager, victim)
    eventually(lambda: len(stack.deaths()) == 2, timeout_s=15, describe=stack.logs)
    assert {death["reason"] for _, death in stack.deaths()} == {"killed"}


def test_stop_finishes_what_runs_and_keeps_the_rest(stack: Stack) -> None:
    handled, accepted = stack.count("handled"), stack.count("accepted")
    auditors = stack.containers("auditor")
    containers = stack.containers()
    stack.hold_audits(10)
    eventually(lambda: all(stack.running(auditor) == 2 for auditor in auditors), timeout_s=20, describe=stack.logs)

    stopping = stack.start_stopping()
    for auditor in auditors:
        eventually(partial(shuts_down, auditor), timeout_s=20, describe=stack.logs)
        stack.release(auditor)
    eventually(lambda: stopping.poll() is not None, timeout_s=90, describe=stack.logs)
    assert stopping.returncode == 0
    assert {inspect(container, ".State.ExitCode") for container in containers} == {0}

    docker("start", *[c for c in containers if inspect(c, ".Config.Image") == "redis:7"])
    eventually(lambda: stack.redis("ping") == "PONG", timeout_s=10)
    assert stack.leases() == []
    assert [death["reason"] for _, death in stack.deaths()] == ["drained"] * 3
    assert stack.count("accepted") == accepted + 10
    assert handled + 4 <= stack.count("handled")
    assert sum(map(stack.count, ("handled", "dead"))) + stack.waiting() == stack.count("accepted")
    # What waits would run in the next test, which has no such file.
    stack.redis("flushall")
