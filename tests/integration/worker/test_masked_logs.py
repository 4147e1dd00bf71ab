"""What a handler's error says of secrets is masked wherever a worker logs it, in its own lines and in Celery's."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.apps import agents_app as app
from tests.support.agents_cluster import hosted
from tests.support.cluster import Cluster
from tests.support.eventually import eventually

SECRET = "hunter2"


@pytest.fixture(scope="module", params=["solo", "prefork"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with hosted(request.param, environment={"ORCHESTRATOR_TELEMETRY": '["logging"]'}) as cluster:
        yield cluster


def test_no_line_of_a_worker_shows_a_secret_in_an_errors_text(cluster: Cluster) -> None:
    delivery = cluster.orchestrator.send("worker", app.Broken(text=f"token={SECRET}"), on_error="log")
    delivery.wait(timeout_s=20)
    eventually(lambda: "dropped after its last attempt: ValueError: token=" in cluster.log(), describe=cluster.log)
    assert cluster.log().count("retry: attempt") == 2, cluster.log()
    assert "Traceback" in cluster.log(), "what Celery prints is there, but for the secret"
    cluster.letter_after(lambda: cluster.orchestrator.send("worker", app.Broken(text=f"token={SECRET}")))
    cluster.letter_after(lambda: cluster.orchestrator.app.send_task("plain.fail", [f"api_key: {SECRET}"]))
    eventually(lambda: cluster.log().count(" dead_letter.added ") == 2, describe=cluster.log)
    eventually(lambda: "ValueError: api_key: **redacted**" in cluster.log(), describe=cluster.log)
    assert SECRET not in cluster.log(), [line for line in cluster.log().splitlines() if SECRET in line]


def test_nor_does_eager_mode(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        app.make(eager=True).send("worker", app.Broken(text=f"token={SECRET}"), on_error="log")
    assert "dropped after its last attempt: ValueError: token=" in caplog.text
    assert SECRET not in caplog.text
