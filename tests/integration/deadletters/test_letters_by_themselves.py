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
def house(redis_url: str, tmp_path: Path) -> Iterator[Cluster]:
    """An agent's worker, and a monitor manager whose beat is embedded in it, as ``Procfile`` starts them apart."""
    beat = ("-B", "-s", str(tmp_path / "beat"))
    with (
        WorkerProcess(APP, redis_url, queues="worker", environment=SOON) as worker,
        WorkerProcess(APP, redis_url, name="m", queues="monitor-manager", arguments=beat, environment=SOON) as manager,
    ):
        house = agents_on(redis_url, worker)
        yield house
        print(manager.log()[-3000:])  # noqa: T201 - shown where a test fails
        house.close()


def automatic(house: Cluster) -> int:
    """How many letters were sent again by themselves."""
    acts = house.orchestrator.dead_letters.audit(500)
    return sum(act.done or 0 for act in acts if (act.kind, act.why) == ("replay", "automatic"))


def test_a_letter_is_sent_again_five_times_by_itself_and_then_parked(house: Cluster) -> None:
    log = house.orchestrator.dead_letters
    before = house.row().accepted
    delivery = house.orchestrator.send("worker", app.Broken(text="for ever"), retry=ONCE)
    (letter,) = eventually(lambda: log.query(state="parked").page(10).letters, WAIT_S, house.log)
    assert letter.delivery_id == delivery.id
    assert (letter.lineage.replays, letter.lineage.auto) == (5, 5)
    assert letter.note["note"] == "replayed automatically 5 times"
    assert letter.note["who"] == "monitor-manager"
    assert log.count() == 1
    assert house.row().accepted == before + 6
    assert automatic(house) == 5
    assert house.log().count(f"worker.Broken[{delivery.id}] received") == 6

    # A later letter has all of its own tries meanwhile; the parked one has had its last.
    house.orchestrator.send("worker", app.Broken(text="later"), retry=ONCE)
    eventually(lambda: log.query(state="parked").count() == 2, WAIT_S, house.log)
    assert log.get(letter.id) == letter
    assert automatic(house) == 10
    assert house.log().count(f"worker.Broken[{delivery.id}] received") == 6


def test_a_letter_whose_cause_has_passed_is_handled_by_itself(house: Cluster) -> None:
    log = house.orchestrator.dead_letters
    house.redis.set("test:broken", 1)
    delivery = house.orchestrator.send("worker", app.FailsWhile(key="test:broken"), retry=ONCE)
    assert isinstance(delivery.wait(timeout_s=WAIT_S), Dead)
    eventually(lambda: automatic(house) >= 1, WAIT_S, house.log)
    house.redis.delete("test:broken")
    eventually(lambda: isinstance(delivery.outcome(), Handled) and log.count() == 0, WAIT_S, house.log)
    assert 1 <= automatic(house) <= 5
    assert all(row.balanced for row in house.idle())


def test_what_no_repeating_helps_is_left_alone(house: Cluster) -> None:
    log = house.orchestrator.dead_letters
    wrong = house.orchestrator.send("worker", app.Hopeless())
    assert isinstance(wrong.wait(timeout_s=WAIT_S), Dead)
    house.orchestrator.send("worker", app.Broken(), retry=ONCE)
    eventually(lambda: log.query(state="parked").count() == 1, WAIT_S, house.log)
    (left,) = log.query().page(10).letters
    assert (left.delivery_id, left.reason, left.lineage.replays) == (wrong.id, "non-retryable error", 0)
