"""Beat, the monitor manager and the dead-letter log, end to end: letters are sent again by themselves, then parked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import Dead, Handled, Retry
from tests.apps import agents_app as app
from tests.support.agents_cluster import APP, agents_on
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

WAIT_S = 40

#: Six attempts by themselves within two seconds.
SOON = {
    "ORCHESTRATOR_DEAD_LETTER_AUTO_REPLAYS": "5",
    "ORCHESTRATOR_DEAD_LETTER_FIRST_REPLAY_S": "0.05",
    "ORCHESTRATOR_DEAD_LETTER_MAINTENANCE_INTERVAL_S": "0.1",
}

ONCE = Retry(max_retries=0)


@pytest.fixture
def cluster(redis_url: str, tmp_path: Path) -> Iterator[Cluster]:
    """An agent's worker, and a monitor manager whose beat is embedded in it, as ``Procfile`` starts them apart."""
    beat = ("-B", "-s", str(tmp_path / "beat"))
    with (
        WorkerProcess(APP, redis_url, queues="worker", environment=SOON) as worker,
        WorkerProcess(APP, redis_url, name="m", queues="monitor-manager", arguments=beat, environment=SOON) as manager,
    ):
        cluster = agents_on(redis_url, worker)
        yield cluster
        print(manager.log()[-3000:])  # noqa: T201 - shown where a test fails
        cluster.close()


def automatic(cluster: Cluster) -> int:
    """How many letters were sent again by themselves."""
    acts = cluster.orchestrator.dead_letters.audit(500)
    return sum(act.done or 0 for act in acts if (act.kind, act.why) == ("replay", "automatic"))


@pytest.mark.slow
def test_a_letter_is_replayed_five_times_by_itself_and_then_parked(cluster: Cluster) -> None:
    log = cluster.orchestrator.dead_letters
    before = cluster.row().accepted
    delivery = cluster.orchestrator.send("worker", app.Broken(text="for ever"), retry=ONCE)
    (letter,) = eventually(lambda: log.query(state="parked").page(10).letters, WAIT_S, cluster.log)
    assert letter.delivery_id == delivery.id
    assert (letter.lineage.replays, letter.lineage.auto) == (5, 5)
    assert letter.note["note"] == "replayed automatically 5 times"
    assert letter.note["who"] == "monitor-manager"
    assert log.count() == 1
    assert cluster.row().accepted == before + 6
    assert automatic(cluster) == 5
    assert cluster.log().count(f"worker.Broken[{delivery.id}] received") == 6

    # A later letter has all of its own tries meanwhile; the parked one has had its last.
    cluster.orchestrator.send("worker", app.Broken(text="later"), retry=ONCE)
    eventually(lambda: log.query(state="parked").count() == 2, WAIT_S, cluster.log)
    assert log.get(letter.id) == letter
    assert automatic(cluster) == 10
    assert cluster.log().count(f"worker.Broken[{delivery.id}] received") == 6


def test_a_letter_whose_cause_has_passed_is_handled_by_itself(cluster: Cluster) -> None:
    log = cluster.orchestrator.dead_letters
    cluster.redis.set("test:broken", 1)
    delivery = cluster.orchestrator.send("worker", app.FailsWhile(key="test:broken"), retry=ONCE)
    assert isinstance(delivery.wait(timeout_s=WAIT_S), Dead)
    eventually(lambda: automatic(cluster) >= 1, WAIT_S, cluster.log)
    cluster.redis.delete("test:broken")
    eventually(lambda: isinstance(delivery.outcome(), Handled) and log.count() == 0, WAIT_S, cluster.log)
    assert 1 <= automatic(cluster) <= 5
    assert all(row.balanced for row in cluster.idle())


def test_what_no_repeating_helps_is_left_alone(cluster: Cluster) -> None:
    log = cluster.orchestrator.dead_letters
    wrong = cluster.orchestrator.send("worker", app.Hopeless())
    assert isinstance(wrong.wait(timeout_s=WAIT_S), Dead)
    cluster.orchestrator.send("worker", app.Broken(), retry=ONCE)
    eventually(lambda: log.query(state="parked").count() == 1, WAIT_S, cluster.log)
    (left,) = log.query().page(10).letters
    assert (left.delivery_id, left.reason, left.lineage.replays) == (wrong.id, "non-retryable error", 0)
