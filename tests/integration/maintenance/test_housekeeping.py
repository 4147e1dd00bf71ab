"""Housekeeping: what the library sends to itself keeps out of the user's tasks, signals, events, logs and sums."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from orchestrator import Orchestrator
from orchestrator.core.housekeeping import HOUSEKEEPING_MESSAGE, HOUSEKEEPING_QUEUE
from orchestrator.embedded import EmbeddedServer
from tests.apps import housekept_app
from tests.support.eventually import eventually
from tests.support.worker_process import ROOT, WorkerProcess

APP = "tests.apps.housekept_app"
OWN_SCHEDULER = ("-S", "tests.apps.housekept_app:OwnScheduler")


@contextmanager
def beat(redis_url: str, directory: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """``celery beat`` as a process of its own; its output is in ``directory / "beat.log"``."""
    command = [sys.executable, "-m", "celery", "-A", APP, "beat", "-l", "INFO", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ORCHESTRATOR_BROKER_URL": redis_url}
    with (directory / "beat.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log)
        try:
            yield process
        except BaseException:
            sys.stderr.write(f"--- beat\n{(directory / 'beat.log').read_text()}\n")
            raise
        finally:
            process.kill()
            process.wait()


def swept_by_manager(orchestrator: Orchestrator, rounds: int = 1) -> bool:
    """Whether so many housekeeping messages were handled, and the manager swept last."""
    store: Any = orchestrator.runtime.store
    by = store.client.hget(store.keys.sweep, "by")
    return by == HOUSEKEEPING_QUEUE.encode() and orchestrator.housekeeping_ledger().handled >= rounds


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork", "gevent"])
def test_the_users_app_sees_nothing_of_housekeeping(redis_url: str, tmp_path: Path, pool: str) -> None:
    orchestrator = housekept_app.make(redis_url)
    redis = Redis.from_url(redis_url, decode_responses=True)
    events = redis.pubsub()
    events.psubscribe("*celeryev*")
    arguments = ("-B", "-E", "-s", str(tmp_path / "schedule")) if pool not in ("gevent",) else ("-E",)
    with (
        WorkerProcess(APP, redis_url, pool=pool, arguments=arguments, environment={"LISTENS": "1"}) as worker,
        beat(redis_url, tmp_path, "-s", str(tmp_path / "schedule2")),
    ):
        eventually(lambda: swept_by_manager(orchestrator, 3), 30, worker.log)
        eventually(lambda: "task_success user.tick" in redis.lrange(housekept_app.SEEN, 0, -1), 20, worker.log)
        inspect = orchestrator.app.control.inspect(timeout=10, limit=1)
        told = json.dumps([inspect.registered(), inspect.active(), inspect.reserved(), inspect.stats()])
        log = worker.log()
    seen = redis.lrange(housekept_app.SEEN, 0, -1)
    assert {line.split()[1] for line in seen} == {"user.tick"}
    emitted = []
    while message := events.get_message(timeout=1):
        if message["type"] == "pmessage":
            emitted.append(base64.b64decode(json.loads(message["data"])["body"]).decode())
    assert any("user.tick" in one for one in emitted)
    for text in (told, log, (tmp_path / "beat.log").read_text(), *emitted):
        assert HOUSEKEEPING_MESSAGE not in text
        assert "orchestrator.sweep" not in text
    assert list(orchestrator.app.conf.beat_schedule) == ["tick"]
    # What ends the delivery of a replaced task is a message of that delivery.
    ours = {name for name in orchestrator.app.tasks if name.startswith("orchestrator.")}
    assert ours == {"orchestrator.end_replaced", "orchestrator.replacement_failed"}


def test_a_scheduler_class_of_the_users_own_changes_nothing_and_the_clock_stops_with_beat(
    redis_url: str, tmp_path: Path
) -> None:
    orchestrator = housekept_app.make(redis_url)
    with (
        WorkerProcess(APP, redis_url, queues=HOUSEKEEPING_QUEUE) as manager,
        beat(redis_url, tmp_path, *OWN_SCHEDULER) as process,
    ):
        eventually(lambda: swept_by_manager(orchestrator, 2), 30, manager.log)
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        accepted = orchestrator.housekeeping_ledger().accepted
        # Somebody stands in: nobody publishes any more.
        eventually(lambda: "no beat asks for sweeps" in manager.log(), 20, manager.log)
        assert orchestrator.housekeeping_ledger().accepted == accepted


def test_housekeeping_is_not_in_the_users_sums_but_has_its_own_line(redis_url: str, tmp_path: Path) -> None:
    orchestrator = housekept_app.make(redis_url)
    store: Any = orchestrator.runtime.store
    with beat(redis_url, tmp_path, *OWN_SCHEDULER):
        # Where there never was a beat, a worker fires the entries after 10 s; a busy machine may take longer.
        eventually(lambda: store.client.hexists(store.keys.scheduler, "elsewhere:housekept"), 60)
        with WorkerProcess(APP, redis_url, queues=f"ponger,{HOUSEKEEPING_QUEUE}", pool="threads") as worker:
            orchestrator.send("ponger", housekept_app.Ping()).wait(timeout_s=20)
            eventually(lambda: swept_by_manager(orchestrator, 2), 30, worker.log)
    (row,) = [row for row in orchestrator.ledger() if row.accepted]
    assert (row.queue, row.accepted, row.handled) == ("ponger", 1, 1)
    own = orchestrator.housekeeping_ledger()
    assert own.balanced
    assert own.handled >= 2
    command = [sys.executable, "-m", "celery", "-A", APP, "ledger"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ORCHESTRATOR_BROKER_URL": redis_url, "COLUMNS": "200"}
    text = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert "Not in the total: monitor-manager" in text
    raw = subprocess.run([*command, "--json"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    document = json.loads(raw.stdout)
    assert document["total"]["accepted"] == 1
    assert document["housekeeping"]["handled"] == own.handled


def test_beat_says_once_that_redis_is_away_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    with EmbeddedServer() as server:
        orchestrator = housekept_app.make(server.url)
        with (
            WorkerProcess(APP, server.url, queues=HOUSEKEEPING_QUEUE) as manager,
            beat(server.url, tmp_path, *OWN_SCHEDULER) as process,
        ):
            eventually(lambda: swept_by_manager(orchestrator, 1), 30, manager.log)
            server.kill()
            eventually(lambda: "housekeeping message not published" in (tmp_path / "beat.log").read_text(), 20)
            server.start()
            eventually(lambda: "published again" in (tmp_path / "beat.log").read_text(), 30)
            eventually(lambda: swept_by_manager(orchestrator, 1), 30, manager.log)
            assert process.poll() is None
            assert manager.is_running
        text = (tmp_path / "beat.log").read_text()
        assert text.count("housekeeping message not published") == 1
        assert "Traceback" not in text
