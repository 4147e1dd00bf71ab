"""Overrides of timeouts in Redis, and on real workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Dead, InvalidPolicy
from orchestrator.timeouts.overrides import RedisOverrides
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.lost_answers import Callers
from tests.apps import agents_app as app
from tests.support.agent_sends import WAIT_S
from tests.support.agents_cluster import APP, QUEUES, hosted, unhosted
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.redis_clock import TimedScripts
from tests.support.timing import least_s
from tests.support.worker_process import WorkerProcess


def left_s(cluster: Cluster) -> Any:
    outcome: Any = cluster.orchestrator.send("worker", app.TimeLeft()).wait(WAIT_S)
    return outcome.result[0]


@pytest.fixture(scope="module", params=["solo", "prefork"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with hosted(request.param) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def bare() -> Iterator[Cluster]:
    with unhosted() as cluster:
        yield cluster


def override(cluster: Cluster, timeout_s: float) -> None:
    """Override a timeout, and wait until a worker heeds it."""
    cluster.orchestrator.timeouts.override("worker.TimeLeft", timeout_s, for_s=3600)
    eventually(lambda: timeout_s - 10 < (left_s(cluster) or 0) <= timeout_s)


def test_an_override_reaches_a_worker_and_ends_by_itself(cluster: Cluster) -> None:
    timeouts = cluster.orchestrator.timeouts
    assert left_s(cluster) is None
    override(cluster, 90)
    override(cluster, 70)

    def is_heeded() -> bool:
        # A worker that is late by a second would miss one that is over in a second.
        timeouts.override("worker.TimeLeft", 40, for_s=1)
        return (left_s(cluster) or 99) <= 40

    eventually(is_heeded)
    eventually(lambda: left_s(cluster) is None)
    assert timeouts.overrides() == []


@pytest.mark.slow
def test_an_override_reaches_a_worker_within_a_second(cluster: Cluster) -> None:
    timeouts_s = iter((90, 70, 60))
    # Half a second for the message, on a busy machine.
    assert least_s(lambda: override(cluster, next(timeouts_s))) < 1 + 0.5
    assert cluster.orchestrator.timeouts.clear() == 1


def test_an_overridden_timeout_is_enforced_and_not_written_into_the_message(cluster: Cluster) -> None:
    cluster.orchestrator.timeouts.override("worker.Lasts", 0.2, for_s=3600)
    eventually(lambda: "worker.Lasts=0.2 s" in cluster.log())
    delivery = cluster.orchestrator.send("worker", app.Lasts(for_s=30), timeout_s=25)
    outcome = delivery.wait(WAIT_S)
    assert isinstance(outcome, Dead)
    assert outcome.error == "HandlerTimeout: worker.Lasts did not finish within 0.2 s"
    letter = cluster.orchestrator.dead_letters.get(str(outcome.letter_id))
    assert json.loads(letter.raw)["headers"]["orc"]["timeout_s"] == 25
    assert cluster.orchestrator.timeouts.clear() == 1


@pytest.mark.slow
def test_it_outlives_every_worker() -> None:
    with unhosted() as cluster:
        cluster.orchestrator.host()
        with WorkerProcess(APP, cluster.url, pool="solo", queues=QUEUES) as first:
            cluster.orchestrator.timeouts.override("worker", 60, for_s=3600)
            eventually(lambda: 50 < (left_s(cluster) or 0) <= 60)
            first.kill()
        with WorkerProcess(APP, cluster.url, pool="solo", queues=QUEUES) as second:
            eventually(lambda: "timeouts overridden now: worker=60 s" in second.log())
            assert 50 < left_s(cluster) <= 60


def test_each_change_has_a_later_version_and_the_hash_ends_with_its_last_override(bare: Cluster) -> None:
    scripts, keys, redis = TimedScripts(bare.redis), bare.keys, bare.redis
    key = keys.timeout_overrides

    def override(name: str, ttl_ms: int, most: int = 10) -> Any:
        attempt = Callers().attempt(keys)
        call = commands.override_timeout(keys, name, 5, ttl_ms=ttl_ms, by="ann", most=most, attempt=attempt)
        return scripts.run(*call)

    def version() -> int:
        return int(redis.hget(key, "") or 0)

    # Not before the server's own clock, by which keys expire.
    now_ms = int(redis.time()[0] + 3600) * 1000
    scripts.set(now_ms)
    assert override("a", 5000) == [1, now_ms, now_ms + 5000]
    versions = [version()]
    override("b", 9000)
    versions.append(version())
    left_ms = now_ms + 9000 - int(redis.time()[0]) * 1000
    assert redis.pttl(key) == pytest.approx(left_ms, abs=2000)
    assert override("c", 1000, most=2) == [0, 2]
    # Another timeout for a name that is overridden is not one more.
    assert override("a", 1000, most=2)[0] == 1
    versions.append(version())
    scripts.set(now_ms + 1001)
    # What has ended makes room.
    assert override("c", 1000, most=2)[0] == 1
    versions.append(version())
    assert sorted(redis.hkeys(key)) == [b"", b"b", b"c"]
    assert scripts.run(*commands.clear_timeouts(keys, Callers().attempt(keys), ["b"])) == 1
    versions.append(version())
    assert versions == sorted(set(versions))
    assert scripts.run(*commands.clear_timeouts(keys, Callers().attempt(keys), ["b"])) == 0
    assert version() == versions[-1]
    assert scripts.run(*commands.clear_timeouts(keys, Callers().attempt(keys))) == 1
    assert redis.exists(key) == 0


def test_there_are_not_more_than_a_worker_can_read(bare: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.timeouts.overrides.MOST", 1)
    overrides = RedisOverrides(bare.orchestrator.runtime.store)
    overrides.set("a", 5, 60)
    with pytest.raises(InvalidPolicy, match="one of at most 1 overrides; there are 1"):
        overrides.set("b", 5, 60)
    assert [one.name for one in overrides.list()] == ["a"]
    assert overrides.clear() == 1


def test_a_hard_limit_that_would_come_first_is_refused(bare: Cluster) -> None:
    with pytest.raises(InvalidPolicy, match=r"below time_limit=1 of plain\.limited"):
        bare.orchestrator.timeouts.override("plain.limited", 1, for_s=60)
