"""The reasons of deaths that a process gives itself, or that a neighbour must find out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from orchestrator.core.deliveries.death import DeathReason
from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS
from orchestrator.transport.redis import commands
from orchestrator.worker.bootsteps.exit_reason import RecordExitReason
from tests.apps.shop import make
from tests.support.bare_broker import BareBroker
from tests.support.command_line import celery
from tests.support.eventually import eventually
from tests.support.worker_process import ROOT, WorkerProcess

CRASHES = """
import sys
from kombu import Connection, Queue
with Connection(sys.argv[1], transport="orchestrator.transport:Transport") as connection:
    queue = Queue("q", channel=connection.default_channel)
    queue.declare()
    queue.consume(callback=print)
    raise LookupError("what now")
"""


@pytest.fixture
def broker(redis_url: str) -> Iterator[BareBroker]:
    broker = BareBroker(redis_url)
    yield broker
    broker.close()


def deaths(broker: BareBroker) -> list[tuple[str, str]]:
    return [(f["reason"], f.get("error", "")) for _, f in broker.redis.xrange(broker.store.keys.deaths)]


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork", "gevent"])
def test_a_worker_that_makes_room_for_another_version_answers_and_is_deployed(
    redis_url: str, broker: BareBroker, pool: str
) -> None:
    shop = make(redis_url)
    with WorkerProcess("tests.apps.shop", redis_url, pool=pool, queues="billing") as worker:
        # It says that it is ready before Redis knows that it listens.
        eventually(lambda: shop.app.control.ping(timeout=1), timeout_s=20, describe=worker.log)
        asked = celery(
            "-A", "tests.apps.shop", "control", "--timeout", "3", "deploy", ORCHESTRATOR_BROKER_URL=redis_url
        )
        assert asked.returncode == 0, asked.stdout + asked.stderr
        assert "OK" in asked.stdout
        eventually(lambda: not worker.is_running, timeout_s=20, describe=worker.log)
        assert worker.stop() == 0
        (death,) = shop.registry.deaths()
        assert (death.reason, death.is_planned, death.agents) == ("deployed", True, ("billing",))


def test_a_process_that_an_error_ends_has_crashed_and_the_error_is_kept(redis_url: str, broker: BareBroker) -> None:
    subprocess.run([sys.executable, "-c", CRASHES, redis_url], cwd=ROOT, capture_output=True, check=False, timeout=60)
    assert deaths(broker) == [("crashed", "LookupError: what now")]


def test_the_error_that_ends_a_worker_is_noted_while_celery_handles_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PROCESS_INCARNATIONS, "ending", (DeathReason.DRAINED, ""))
    step = RecordExitReason(None)
    step.stop(None)
    assert PROCESS_INCARNATIONS.ending == (DeathReason.DRAINED, "")
    try:
        raise OSError("no space left")
    except OSError:
        step.stop(None)
    assert PROCESS_INCARNATIONS.ending == (DeathReason.CRASHED, "OSError: no space left")


@pytest.mark.parametrize(("count", "reason"), [(None, "killed"), (4, "killed"), (5, "oom")])
def test_a_kill_is_an_oom_kill_if_a_neighbour_has_seen_the_count_rise(
    broker: BareBroker, count: int | None, reason: str
) -> None:
    k, store = broker.store.keys, broker.store
    about = {"oom_group": "g", "oom_kills": 4}
    raw, _ = store.run(*commands.register(k, "w:1", about))
    victim = raw.decode()
    raw, _ = store.run(*commands.register(k, "n:1", about))
    neighbour = raw.decode()
    if count is not None:
        beat = commands.heartbeat(k, neighbour, {}, missed_ms=850, oom_group="g", oom_kills=count)
        assert store.run(*beat)[0] == 1
    store.run(*commands.fence(k, victim, "killed", "test"))
    assert deaths(broker) == [(reason, "")]


@pytest.mark.parametrize("living", [3, 300])
def test_a_sweep_asks_as_much_of_redis_whoever_lives(broker: BareBroker, living: int) -> None:
    k, store = broker.store.keys, broker.store
    for number in range(living):
        store.run(*commands.register(k, f"w:{number}", {"node": "w"}))
    # However long this takes, nobody's heartbeat is late.
    far = broker.redis.time()[0] * 1000 + 3_600_000
    broker.redis.zadd(k.leases, dict.fromkeys(broker.redis.zrange(k.leases, 0, -1), far))
    sweeper = store.sweeper()
    sweeper.sweep("warm-up")
    broker.redis.config_resetstat()
    sweeper.sweep("test")
    stats = broker.redis.info("commandstats")
    calls = sum(
        stat["calls"] for name, stat in stats.items() if name not in ("cmdstat_config|resetstat", "cmdstat_info")
    )
    assert calls <= 25, stats
