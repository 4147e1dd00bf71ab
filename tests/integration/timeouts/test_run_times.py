"""What workers record of the run times of attempts."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.keys import Keys
from orchestrator.core.policies.run_times import TIMED_OUT, bucket_of
from orchestrator.transport.liveness.run_times import RunTimes
from orchestrator.transport.redis import commands
from tests.apps import agents_app as app
from tests.support.agent_sends import WAIT_S
from tests.support.agents_cluster import hosted, unhosted
from tests.support.eventually import eventually


@pytest.mark.parametrize("pool", ["solo", pytest.param("prefork", marks=pytest.mark.slow)])
def test_what_a_worker_runs_can_be_asked_for_after_its_end(pool: str) -> None:
    with hosted(pool) as cluster:
        timeouts = cluster.orchestrator.timeouts
        deliveries = cluster.orchestrator.send_many("worker", [app.Add(a=1, b=2)] * 100)
        deliveries[-1].wait(WAIT_S)
        cluster.orchestrator.send("worker", app.Lasts(for_s=30), timeout_s=0.2).wait(WAIT_S)
        # A worker that stops writes at once.
        cluster.worker.stop()
        (add,) = timeouts.suggest("worker.Add")
        assert (add.handled, add.timed_out) == (100, 0)
        assert 0 < (add.p99_s or 0) < 5
        assert add.suggested_s is not None
        (lasts,) = timeouts.suggest("worker.Lasts")
        assert (lasts.handled, lasts.timed_out, lasts.p99_s, lasts.suggested_s) == (0, 2, None, None)
        assert [one.task for one in timeouts.suggest()] == ["worker.Add", "worker.Lasts"]
        with pytest.raises(InvalidPolicy, match=r"margin=0\.5"):
            timeouts.suggest(margin=0.5)


def test_counts_are_added_up_over_processes_and_days_and_expire() -> None:
    with unhosted() as cluster:
        store = cluster.orchestrator.runtime.store

        def run(*call: Any) -> Any:
            return store.run(*call)

        for number in range(2):
            process = RunTimes(store.keys)
            for seconds in (1.0, 1.0, 30.0, -1.0):
                process.record("worker.Add", seconds)
            process.after_heartbeat(run)
            assert len(list(store.client.scan_iter("orc:durations:*"))) == number
            process.after_heartbeat(run, at_once=True)
        day = store.run(*commands.add_run_times(store.keys, {("worker.Add", 0): 1}))
        store.client.rename(store.keys.run_times(day, "worker.Add"), store.keys.run_times(day - 6, "worker.Add"))
        store.run(*commands.add_run_times(store.keys, {("worker.Add", 0): 3}))
        counts = cluster.orchestrator.runtime.mode.run_times.counts(["worker.Add", "worker.Pay"])
        assert counts == {"worker.Add": {0: 8, bucket_of(30.0): 2, TIMED_OUT: 2}, "worker.Pay": {}}
        assert 6 * 86400 < store.client.ttl(store.keys.run_times(day, "worker.Add")) <= 7 * 86400


def test_many_counts_are_written_in_parts_and_a_failure_loses_none() -> None:
    written: list[int] = []

    def run(_name: str, _keys: Any, args: list[Any]) -> None:
        if not written:
            written.append(0)
            raise ConnectionError
        written.append((len(args) - 2) // 3)

    process = RunTimes(Keys())
    for number in range(1200):
        process.record(f"task-{number}", 1.0)
    with pytest.raises(ConnectionError):
        process.after_heartbeat(run, at_once=True)
    for _ in range(4):
        process.after_heartbeat(run, at_once=True)
    assert written == [0, 500, 500, 200]


def test_a_redis_that_is_full_takes_no_counts_and_all_else() -> None:
    with hosted("solo") as cluster:
        cluster.orchestrator.send("worker", app.Add(a=1, b=2)).wait(WAIT_S)
        cluster.redis.config_set("maxmemory", "1mb")
        heartbeat = cluster.keys.leases, cluster.worker.incarnation
        beaten = cluster.redis.zscore(*heartbeat)
        eventually(lambda: cluster.redis.zscore(*heartbeat) > beaten)
        # At its end, a worker writes counts at once.
        cluster.worker.stop()
        assert cluster.redis.zscore(*heartbeat) is None
        assert not list(cluster.redis.scan_iter("orc:durations:*"))
        assert "not sent" not in cluster.log()
