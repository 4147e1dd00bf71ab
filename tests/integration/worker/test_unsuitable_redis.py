"""A Redis that cannot keep what is promised is refused by workers, and named by `orchestrator doctor`."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from orchestrator.core.deliveries.outcome import Handled
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.embedded import EmbeddedServer
from tests.apps import failover_app
from tests.apps.failover_app import Add
from tests.support.command_line import celery
from tests.support.eventually import eventually
from tests.support.two_servers import replicated
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.failover_app"


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def admin(server: EmbeddedServer) -> Iterator[Any]:
    with redis.Redis.from_url(server.url) as client:
        yield client


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = "import sys; from orchestrator.command import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", command, "doctor", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def worker(url: str, lease_url: str, queues: str = "adder", **environment: str) -> WorkerProcess:
    return WorkerProcess(
        APP, lease_url, pool="threads", queues=queues, environment={"ORCHESTRATOR_BROKER_URL": url, **environment}
    )


def ends(process: WorkerProcess) -> tuple[int, str]:
    """The exit code and the log of a worker that ends by itself."""
    process.start(wait=False)
    eventually(lambda: not process.is_running, 30, process.log)
    assert process._process is not None
    return process._process.returncode, process.log()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
@pytest.mark.parametrize("queues", ["adder", "monitor-manager"])
def test_a_worker_refuses_an_eviction_policy_in_one_line(
    server: EmbeddedServer, admin: Any, policy: str, queues: str
) -> None:
    admin.config_set("maxmemory-policy", policy)
    process = worker(server.url, server.url, queues)
    try:
        code, log = ends(process)
    finally:
        process.close()
    assert code == 2
    (line,) = [line for line in log.splitlines() if f"maxmemory-policy={policy}" in line]
    assert "allowed: noeviction" in line
    assert "Traceback" not in log


def test_a_setting_lets_a_worker_start_and_it_warns(server: EmbeddedServer, admin: Any) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lru")
    with worker(server.url, server.url, ORCHESTRATOR_EVICTION="any") as process:
        assert "maxmemory-policy=allkeys-lru deletes mailboxes" in process.log()


def test_a_worker_that_started_before_redis_refuses_it_when_it_comes() -> None:
    with EmbeddedServer(config={"maxmemory-policy": "allkeys-lru"}) as server:
        server.kill()
        process = worker(server.url, server.url)
        try:
            process.start(wait=False)
            eventually(lambda: "Cannot connect" in process.log(), 30, process.log)
            server.restart()
            eventually(lambda: not process.is_running, 40, process.log)
            assert "maxmemory-policy=allkeys-lru" in process.log()
        finally:
            process.close()


@pytest.mark.parametrize(
    ("right", "refusal", "times"), [("evalsha", "auth:NoPermissionError", 4), ("hset", "can't run this command", 2)]
)
def test_rights_that_are_taken_for_a_while_end_no_worker(
    server: EmbeddedServer, admin: Any, right: str, refusal: str, times: int
) -> None:
    with worker(server.url, server.url) as process:
        orchestrator = failover_app.make(server.url)
        pid = process.pid
        before = len(process.log())
        admin.execute_command("ACL", "SETUSER", "default", f"-{right}")
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        eventually(lambda: process.log()[before:].count(refusal) >= times, 30, process.log)
        admin.execute_command("ACL", "SETUSER", "default", "+@all")
        assert orchestrator.send("adder", Add(a=1, b=2)).wait(timeout_s=30) == Handled(3, 1), process.log()
        assert (process.is_running, process.pid) == (True, pid)
        assert "Unrecoverable" not in process.log()
        orchestrator.app.close()


def test_a_sender_is_warned(server: EmbeddedServer, admin: Any, caplog: pytest.LogCaptureFixture) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lru")
    orchestrator = failover_app.make(server.url)
    with caplog.at_level(logging.WARNING, "orchestrator"):
        orchestrator.send("adder", Add(a=1, b=2)).outcome()
    assert "maxmemory-policy=allkeys-lru" in caplog.text
    orchestrator.app.close()


def test_the_doctor_names_each_check(server: EmbeddedServer, admin: Any) -> None:
    fine = doctor(ORCHESTRATOR_BROKER_URL=server.url)
    assert fine.returncode == 0, fine.stderr
    assert "ok    eviction: maxmemory-policy=noeviction" in fine.stdout
    assert "warn  persistence: appendonly=no" in fine.stdout
    admin.config_set("maxmemory-policy", "volatile-lru")
    sick = doctor("--json", ORCHESTRATOR_BROKER_URL=server.url)
    document = json.loads(sick.stdout)
    levels = {check["check"]: check["level"] for check in document["checks"]}
    assert (sick.returncode, document["ok"], levels["eviction"]) == (1, False, "fail")
    known = {"version", "mode", "role", "commands", "eviction", "persistence", "keys", "declared limits"}
    assert set(levels) == known
    assert [key for key in admin.keys("*") if b"doctor" in key] == []


def test_the_doctor_of_an_app_checks_the_same(server: EmbeddedServer, admin: Any) -> None:
    fine = celery("-A", APP, "doctor", ORCHESTRATOR_BROKER_URL=server.url)
    assert fine.returncode == 0, fine.stderr
    assert "ok    eviction: maxmemory-policy=noeviction" in fine.stdout
    admin.config_set("maxmemory-policy", "volatile-lru")
    sick = celery("-A", APP, "doctor", "--json", ORCHESTRATOR_BROKER_URL=server.url)
    assert (sick.returncode, json.loads(sick.stdout)["ok"]) == (1, False)
    away = celery("-A", APP, "doctor", ORCHESTRATOR_BROKER_URL="redis://127.0.0.1:1/0")
    assert (away.returncode, "not available" in away.stderr) == (4, True)


def test_the_doctor_says_what_a_user_with_few_rights_lacks(server: EmbeddedServer, admin: Any) -> None:
    rights = "~orc:* ~_kombu.* allchannels +@all -@admin -@dangerous +info +client|id -blmove"
    admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", *rights.split())
    url = f"redis://app:pw@127.0.0.1:{server.port}/0"
    found = doctor("--json", "--broker", url)
    levels = {check["check"]: (check["level"], check["text"]) for check in json.loads(found.stdout)["checks"]}
    assert found.returncode == 1
    assert levels["commands"][0] == "fail"
    assert "BLMOVE" in levels["commands"][1]
    # CONFIG GET is forbidden; INFO has the policy.
    assert levels["eviction"][0] == "ok"
    assert "pw" not in found.stdout
    orchestrator = failover_app.make(url)
    with pytest.raises(BrokerUnavailable, match="forbids BLMOVE to this user"):
        orchestrator.send("adder", Add(a=1, b=2)).wait(timeout_s=5)
    orchestrator.app.close()


def test_the_doctor_says_that_redis_is_away_or_a_replica() -> None:
    away = doctor(ORCHESTRATOR_BROKER_URL="redis://127.0.0.1:1/0")
    assert (away.returncode, "not available" in away.stderr) == (3, True)
    with replicated() as servers:
        replica = doctor(ORCHESTRATOR_BROKER_URL=servers.second.url)
        assert (replica.returncode, "is a replica" in replica.stderr) == (3, True)
    usage = doctor(ORCHESTRATOR_BROKER_URL="http://h")
    assert usage.returncode == 2
