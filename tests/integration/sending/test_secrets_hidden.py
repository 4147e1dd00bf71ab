"""The value of a secret field is in a message's body and its exports, and nowhere that is shown."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from pydantic import SecretStr
from redis import Redis

from orchestrator import Dead, Orchestrator
from orchestrator.cli.dead_letters.group import dead_letters
from orchestrator.cli.send import send
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.transport import TRANSPORT
from tests.apps import secrets_app as app
from tests.apps.secrets_app import SECRET
from tests.support.cluster import Cluster
from tests.support.command_line import invoke
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with (
        EmbeddedServer() as server,
        WorkerProcess(
            "tests.apps.secrets_app",
            server.url,
            pool="threads",
            concurrency=2,
            queues="clerk,deputy",
            arguments=("-E",),
            environment={"ORCHESTRATOR_TELEMETRY": '["logging"]', "ORCHESTRATOR_REDACT": "[]"},
        ) as worker,
    ):
        cluster = Cluster(server.url, worker, app.make(server.url, redact=()))
        yield cluster
        cluster.close()


SENDS: dict[str, Callable[[Orchestrator], Any]] = {
    "quick": lambda o: o.send("clerk", app.pay()),
    "by Celery": lambda o: o.send("clerk", app.pay(), countdown_s=0.01),
    "many": lambda o: o.send_many("clerk", [app.Greet(name="n"), app.pay(), app.pay()]),
    "broadcast": lambda o: o.broadcast(["clerk", "deputy"], app.pay()),
    "compensation": lambda o: o.broadcast(["clerk"], app.Greet(name="n"), compensate=app.pay()),
}


@pytest.mark.parametrize("name", SENDS)
def test_whichever_way_it_is_sent_headers_have_no_secret(cluster: Cluster, name: str) -> None:
    log = cluster.orchestrator.dead_letters
    cluster.orchestrator.dead_letters.purge(all=True)
    SENDS[name](cluster.orchestrator)
    expected = {"many": 2, "broadcast": 2, "compensation": 0}.get(name, 1)
    eventually(
        lambda: all(row.pending == 0 for row in cluster.orchestrator.ledger()) and len(log.list(10)) == expected,
        20,
        cluster.worker.log,
    )
    for letter in log.list(10):
        assert SECRET in json.dumps(letter.body())
        assert SECRET.encode() not in letter.raw, "the body is base64; what else is there is shown by Flower and logs"
        assert "argsrepr" in json.loads(letter.raw)["headers"]
    assert SECRET not in cluster.worker.log()


def test_a_command_line_that_has_never_heard_of_the_message_hides_it(cluster: Cluster) -> None:
    cluster.orchestrator.dead_letters.purge(all=True)
    cluster.orchestrator.send("clerk", app.pay()).wait(timeout_s=20)
    stranger = app.make(cluster.url, hosts=False, redact=())
    (letter,) = stranger.dead_letters.list(10)
    for arguments in (("list", "--json"), ("show", letter.id), ("show", letter.id, "--json"), ("groups", "--json")):
        shown = invoke(stranger.app, dead_letters, *arguments).stdout
        assert "no money" in shown
        assert SECRET not in shown
    stranger.app.close()


def test_the_command_line_that_sends_hides_it_in_the_outcome(cluster: Cluster) -> None:
    fields = json.dumps({"user": "u", "pin": SECRET})
    for more in ((), ("--json",)):
        shown = invoke(cluster.orchestrator.app, send, "clerk", "Pay", fields, "--wait", "20", *more).stdout
        assert "no money" in shown
        assert SECRET not in shown


def test_a_worker_that_does_not_know_the_message_logs_it_without_secrets() -> None:
    with EmbeddedServer() as server, WorkerProcess("tests.apps.agents_app", server.url, queues="clerk") as stranger:
        orchestrator = app.make(server.url)
        outcome = orchestrator.send("clerk", app.pay()).wait(timeout_s=20)
        assert isinstance(outcome, Dead)
        assert outcome.reason == "unknown task"
        log = eventually(lambda: stranger.log() if "full contents of the message" in stranger.log() else "", 20)
        assert "clerk.Pay" in log
        assert SECRET not in log
        orchestrator.app.close()


def test_inspect_shows_what_runs_and_what_waits_without_secrets(cluster: Cluster) -> None:
    o, hold = cluster.orchestrator, app.Hold(pin=SecretStr(SECRET))
    o.send("clerk", hold)
    o.send("clerk", app.pay(), countdown_s=3600)
    inspect = o.app.control.inspect(timeout=5)
    active = eventually(lambda: [one for told in (inspect.active() or {}).values() for one in told], 20)
    scheduled = [one["request"] for told in (inspect.scheduled() or {}).values() for one in told]
    with Redis.from_url(cluster.url) as redis:
        redis.rpush("test:go", "go")
    assert [one["args"] for one in active] == [[{"pin": "**redacted**"}]]
    (waiting,) = scheduled
    assert waiting["args"][0]["user"] == "u"
    assert SECRET not in json.dumps(scheduled)


def test_events_and_logs_of_a_worker_hide_what_a_sender_without_this_library_shows(cluster: Cluster) -> None:
    stranger = Celery("stranger", broker=cluster.url, set_as_current=False)
    stranger.conf.update(broker_transport=TRANSPORT, task_serializer="json")
    received: list[dict[str, Any]] = []
    with stranger.connection_for_read() as connection:
        receiver = stranger.events.Receiver(connection, handlers={"task-received": received.append})
        with receiver.consumer_context(wakeup=False) as (draining, _, _), Redis.from_url(cluster.url) as client:
            # Subscribed is who has begun to read; what is published before that reaches nobody.
            patterns = client.pubsub_numpat()
            eventually(lambda: _drained(draining) and client.pubsub_numpat() > patterns, 20)
            id_ = stranger.send_task("clerk.Greet", [{"name": "n", "pin": SECRET}], queue="clerk").id
            eventually(lambda: _drained(draining) and any(event["uuid"] == id_ for event in received), 20)
    (event,) = (event for event in received if event["uuid"] == id_)
    assert "'name': 'n'" in event["args"]
    assert SECRET not in json.dumps(event)
    assert SECRET not in cluster.worker.log()
    stranger.close()


def _drained(connection: Any) -> bool:
    with contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=0.1)
    return True
