"""Whatever comes out of the network: a clear error or a dead letter, and the worker that met it works on."""

import base64
import json
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from orchestrator import Handled
from orchestrator.core.deliveries.outcome import Reason
from orchestrator.core.deliveries.supervision import Supervision
from tests.apps import agents_app
from tests.support.agents_cluster import hosted
from tests.support.cluster import Cluster
from tests.support.envelope import envelope

PASSWORD = "hunter2"


class Bomb:
    """Unpickling it leaves a trace."""

    def __reduce__(self) -> Any:
        return exec, ("open('/tmp/bomb-of-test-bad-input', 'w').close()",)


@pytest.fixture(scope="module", params=["solo", "prefork"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with hosted(request.param) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _works_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """After whatever a test did: the same process, an even ledger, and good messages are handled."""
    if "cluster" not in request.fixturenames:
        yield
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    if not cluster.worker.is_running:
        # The test before this one has failed by now.
        cluster.redis.flushall()
        cluster.worker.start()
    yield
    delivery = cluster.orchestrator.send("worker", agents_app.Add(a=20, b=22))
    try:
        assert delivery.wait(timeout_s=20) == Handled(42, 1)
    except Exception as error:
        raise AssertionError(cluster.log()[-6000:]) from error
    assert cluster.worker.is_running
    for row in cluster.idle():
        assert row.balanced, row
        assert row.restarted == 0, row
    incarnations = cluster.redis.zrange(cluster.keys.leases, 0, -1)
    assert len(incarnations) == 1


def orc(**changes: Any) -> dict[str, Any]:
    return {**Supervision(agent="worker", message="Add").to_wire(), **changes}


def raw(**parts: Any) -> bytes:
    return json.dumps(envelope(**parts)).encode()


def assert_dead_lettered(cluster: Cluster, entry: bytes, reason: Reason, said: str = "") -> None:
    letter = cluster.letter_after(lambda: cluster.put(entry))
    assert letter.raw == entry
    assert letter.reason == reason.value, letter
    assert letter.queue == "worker"
    assert letter.at_ms > 0
    assert said in f"{letter.error_type}: {letter.error_message}"
    json.dumps(letter.shown(()))


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"\xff\xfe\x00",
        b"not json",
        b"{",
        b"[" * 50_000,
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        raw(properties=None),
        raw(properties=[]),
        raw(body=5),
        raw(body={}),
        json.dumps({**envelope(), "headers": []}).encode(),
        json.dumps({**envelope(), "headers": "task"}).encode(),
        raw(properties={"body_encoding": "rot13"}),
        raw(properties={"body_encoding": []}),
        raw(body="!no base64!"),
        raw(headers={"h": {"__type__": "uuid", "__value__": 5}}),
        raw(headers={"h": {"__type__": "decimal", "__value__": "x"}}),
        raw(headers={"h": {"__type__": [], "__value__": "x"}}),
    ],
    ids=lambda entry: repr(entry[:24]),
)
def test_an_entry_that_is_no_envelope_is_dead_lettered_as_malformed(cluster: Cluster, entry: bytes) -> None:
    assert_dead_lettered(cluster, entry, Reason.MALFORMED)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"null",
        b"5",
        b"true",
        b'"text"',
        b"[]",
        b"{}",
        b"[1]",
        b"[[], {}]",
        b"[[], {}, {}, {}]",
        b"[[], [], {}]",
        b"[5, {}, {}]",
        b"[null, {}, {}]",
        b"[{}, {}, 5]",
        b"[[], null, {}]",
        b"[[], {}, 5]",
        b"[[], {}, [1]]",
        b"[" * 50_000,
        b'{"args": 5}',
        b'{"args": [], "kwargs": [], "id": "x", "task": "worker.Add"}',
        b'[[{"a": {"__type__": "uuid", "__value__": 5}}], {}, {}]',
        b'[[{"a": {"__type__": "decimal", "__value__": "x"}}], {}, {}]',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_no_celery_body_is_dead_lettered_as_malformed(cluster: Cluster, body: bytes) -> None:
    assert_dead_lettered(cluster, raw(body=body), Reason.MALFORMED)


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "pickle"])
def test_a_pickle_is_refused_and_never_loaded(cluster: Cluster, content_type: str) -> None:
    entry = raw(body=pickle.dumps(Bomb()), **{"content-type": content_type, "content-encoding": "binary"})
    assert_dead_lettered(cluster, entry, Reason.MALFORMED)
    assert not Path("/tmp/bomb-of-test-bad-input").exists()


@pytest.mark.parametrize(
    "top",
    [
        {"content-type": "application/x-yaml"},
        {"content-type": "text/nonsense"},
        {"content-type": None},
        {"content-type": 5},
        {"content-type": []},
        {"content-encoding": 5},
        {"headers": {"task": "worker.Add", "id": "x", "compression": "application/x-gzip"}},
        {"headers": {"task": "worker.Add", "id": "x", "compression": "nonsense"}},
        {"headers": {"task": "worker.Add", "id": "x", "compression": 5}},
    ],
    ids=str,
)
def test_a_content_that_is_not_plain_json_is_dead_lettered_as_malformed(cluster: Cluster, top: dict[str, Any]) -> None:
    assert_dead_lettered(cluster, json.dumps({**envelope(), **top}).encode(), Reason.MALFORMED)


@pytest.mark.parametrize("without", ["task", "id"])
def test_headers_that_lack_what_celery_needs_are_malformed(cluster: Cluster, without: str) -> None:
    assert_dead_lettered(cluster, raw(without=(without,)), Reason.MALFORMED)


@pytest.mark.parametrize("task", [None, 5, [], {}, ["worker.Add"], "\ud800", "no.\ud800such"])
def test_a_task_that_is_no_name_is_malformed_or_unknown(cluster: Cluster, task: Any) -> None:
    letter = cluster.letter_after(lambda: cluster.put(raw(task=task)))
    assert letter.reason in (Reason.MALFORMED.value, Reason.UNKNOWN_TASK.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"retries": "x"},
        {"retries": -1},
        {"retries": 1.5},
        {"retries": []},
        {"retries": True},
        {"eta": "garbage"},
        {"eta": 5},
        {"eta": []},
        {"eta": "9999-99-99"},
        {"expires": "garbage"},
        {"expires": []},
        {"timelimit": "x"},
        {"timelimit": 5},
        {"timelimit": [1, 2, 3]},
        {"timelimit": ["a", "b"]},
        {"timelimit": [-1, None]},
        {"id": None},
        {"id": 5},
        {"id": []},
        {"id": {}},
        {"id": ""},
        {"id": "\ud800x"},
        {"id": "\ud800x", "orc": orc()},
        {"id": "\ud800x", "orc": orc(), "timelimit": [None, None]},
        {"id": "\ud800x", "retries": "x", "orc": orc()},
        {"root_id": "\udfff"},
        {"group": "\ud800"},
        {"root_id": {"a": 1}},
        {"group": 5},
        {"stamps": 5},
        {"stamped_headers": 5},
        {"stamped_headers": [[1]]},
        {"stamped_headers": [None]},
        {"stamped_headers": [{"task": "x"}]},
        {"replaced_task_nesting": [1, 2]},
        {"orc": []},
        {"orc": "text"},
        {"orc": 5},
        {"orc": {}},
        {"orc": orc(retry=None)},
        {"orc": orc(retry={"n": "x", "b": []})},
        {"orc": orc(on_error="explode")},
        {"orc": orc(failures=5)},
        {"orc": orc(metadata=[1])},
    ],
    ids=str,
)
def test_headers_of_the_wrong_type_are_malformed_and_no_handler_runs(cluster: Cluster, headers: dict[str, Any]) -> None:
    assert_dead_lettered(cluster, raw(headers=headers), Reason.MALFORMED)


@pytest.mark.parametrize(
    "headers",
    [
        {"retries": None},
        {"eta": None, "expires": None, "timelimit": [None, None]},
        {"timelimit": None},
        {"lang": 5},
        {"argsrepr": {"a": 1}},
        {"shadow": None},
        {"delivery_info": 5},
        {"unheard_of": [{}]},
        {"orc": orc(agent=5, message=None, replay_of=[])},
        {"orc": orc(agent="\ud800", message="\ud800", replay_of="\ud800")},
        {"orc": orc(idempotency=["\ud800", 1000])},
        {"argsrepr": "\ud800"},
        {"shadow": "\ud800"},
        {"orc": None},
    ],
    ids=str,
)
def test_headers_that_say_nothing_or_nothing_we_know_do_no_harm(cluster: Cluster, headers: dict[str, Any]) -> None:
    before = cluster.idle()
    handled = sum(row.handled for row in before)
    cluster.put(raw(headers=headers))
    after = cluster.idle()
    assert sum(row.handled for row in after) == handled + 1
    assert sum(row.dead for row in after) == sum(row.dead for row in before)


def test_an_unregistered_task_is_dead_lettered(cluster: Cluster) -> None:
    assert_dead_lettered(cluster, raw(task="nobody.Knows"), Reason.UNKNOWN_TASK, "nobody.Knows")


@pytest.mark.parametrize("supervised", [True, False])
def test_an_unregistered_task_with_an_id_that_is_no_text_is_dead_lettered(cluster: Cluster, supervised: bool) -> None:
    headers = {"id": "\ud800x", **({"orc": orc()} if supervised else {})}
    assert_dead_lettered(cluster, raw(task="nobody.Knows", headers=headers), Reason.UNKNOWN_TASK)


def test_an_unknown_message_type_on_the_wire_is_dead_lettered(cluster: Cluster) -> None:
    said = "agent 'worker' does not handle 'Unhosted'; it handles: "
    assert_dead_lettered(cluster, raw(task="worker.Unhosted"), Reason.UNKNOWN_MESSAGE, said)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"order_id": "o", "cents": 0}, "greater than 0"),
        ({"order_id": "o"}, "cents"),
        ({"order_id": 5, "cents": 5}, "order_id"),
        ({"order_id": "o", "cents": 5, "cent": 5}, "cent"),
        ({}, "order_id"),
        (5, "not one object"),
        (None, "not one object"),
        ([], "not one object"),
    ],
)
@pytest.mark.parametrize("supervised", [True, False])
def test_a_message_that_fails_validation_is_dead_lettered_with_the_errors(
    cluster: Cluster, fields: Any, said: str, supervised: bool
) -> None:
    headers = {"orc": orc(message="Pay")} if supervised else {}
    assert_dead_lettered(cluster, raw(task="worker.Pay", args=[fields], headers=headers), Reason.VALIDATION, said)


@pytest.mark.parametrize(("args", "kwargs"), [([], {}), ([{"a": 1, "b": 2}, 3], {}), ([], {"a": 1, "b": 2})])
def test_a_body_that_is_not_one_message_is_dead_lettered(cluster: Cluster, args: Any, kwargs: Any) -> None:
    assert_dead_lettered(cluster, raw(args=args, kwargs=kwargs), Reason.VALIDATION, "not one object")


@pytest.mark.parametrize("kwargs", [{}, {"nope": 1}])
def test_a_plain_task_with_the_wrong_arguments_is_dead_lettered(cluster: Cluster, kwargs: Any) -> None:
    letter = cluster.letter_after(lambda: cluster.put(raw(task="plain.add", args=[1], kwargs=kwargs)))
    assert letter.error_type == "TypeError"


def test_a_validation_failure_does_not_tell_secrets(cluster: Cluster) -> None:
    fields = {"order_id": "o", "cents": 0, "password": [PASSWORD]}
    letter = cluster.letter_after(lambda: cluster.put(raw(task="worker.Pay", args=[fields], headers={"orc": orc()})))
    assert letter.reason == Reason.VALIDATION.value
    assert PASSWORD not in json.dumps(letter.shown(("password",)))


def test_who_waits_for_a_dead_lettered_message_is_told(cluster: Cluster) -> None:
    """Its outcome is recorded, whichever of the doors it left by."""
    for task, headers, reason in [
        ("nobody.Knows", {}, Reason.UNKNOWN_TASK),
        ("worker.Add", {"expires": "garbage"}, Reason.MALFORMED),
        ("worker.Pay", {}, Reason.VALIDATION),
    ]:
        entry = raw(task=task, headers={"id": f"waited-{reason.name}", "orc": orc(), **headers})
        letter = cluster.letter_after(partial(cluster.put, entry))
        (outcome,) = cluster.redis.lrange(cluster.keys.outcome(f"waited-{reason.name}"), 0, -1)
        assert json.loads(outcome)["outcome"] == "dead"
        assert json.loads(outcome)["reason"] == reason.value
        assert json.loads(outcome)["letter_id"] == letter.id


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ("just text", {}),
        ({"a": 1}, {}),
        ([1, 2, 3], {}),
        ({"a": 1}, {"headers": {"task": "nobody.Knows", "id": "x"}}),
        (b"\x00\x01", {"content_type": "application/data", "content_encoding": "binary"}),
        ({"task": "worker.Add", "id": "x", "args": 5, "kwargs": 7}, {}),
        ({"task": "worker.Add", "id": ["x"], "args": [], "kwargs": {}}, {}),
        ({"task": ["worker.Add"], "id": "x", "args": [], "kwargs": {}}, {}),
    ],
    ids=str,
)
def test_what_a_plain_kombu_producer_sends_is_dead_lettered(
    cluster: Cluster, body: Any, options: dict[str, Any]
) -> None:
    def publish() -> None:
        with Connection(cluster.url, transport="orchestrator.transport:Transport") as connection:
            connection.Producer(serializer="json").publish(body, exchange="", routing_key="worker", **options)

    letter = cluster.letter_after(publish)
    assert letter.reason in (Reason.MALFORMED.value, Reason.UNKNOWN_TASK.value)


def test_celerys_first_protocol_is_still_understood(cluster: Cluster) -> None:
    first = {"task": "plain.add", "id": "v1", "args": [1, 2], "kwargs": {}, "retries": 0, "eta": None}
    handled = cluster.row().handled
    with Connection(cluster.url, transport="orchestrator.transport:Transport") as connection:
        connection.Producer(serializer="json").publish(first, exchange="", routing_key="worker")
    assert sum(row.handled for row in cluster.idle() if row.queue == "worker") == handled + 1


def test_the_letter_keeps_bytes_that_are_no_text(cluster: Cluster) -> None:
    entry = bytes(range(256))
    letter = cluster.letter_after(lambda: cluster.put(entry))
    assert letter.raw == entry
    assert base64.b64encode(letter.raw)


def test_a_hundred_bad_ones_among_good_ones_cost_nobody_anything(cluster: Cluster) -> None:
    before = cluster.row()
    for n in range(100):
        cluster.put(raw(headers={"id": f"good-{n}"}))
        cluster.put(raw(headers={"id": f"bad-{n}", "retries": "x"}) if n % 2 else b"bad")
    cluster.idle(timeout_s=30)
    after = cluster.row()
    assert (after.handled - before.handled, after.dead - before.dead) == (100, 100)
