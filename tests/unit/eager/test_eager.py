"""Eager mode: no Redis, no waiting, and nothing that would not happen on a worker.

What a worker does too is in ``tests/integration/agents/test_agents.py``, which runs the same tests on both.
"""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from celery.result import EagerResult

from orchestrator import Dead, Exponential, Handled, Orchestrator, Retry
from orchestrator.core.errors import (
    InvalidMessage,
    InvalidPolicy,
    SendFailed,
    UnknownDeadLetter,
    UnknownMessage,
)
from orchestrator.deadletters.in_memory.store import InMemoryDeadLetterStore
from orchestrator.deadletters.log import DeadLetters
from tests.apps import agents_app
from tests.support.envelope import envelope


@pytest.fixture(autouse=True)
def _no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects to Redis fails the test."""

    def connect(self: Any) -> None:
        raise AssertionError("eager mode has asked for Redis")

    monkeypatch.setattr(redis.connection.AbstractConnection, "connect", connect)


@pytest.fixture
def orchestrator() -> Orchestrator:
    return agents_app.make("redis://127.0.0.1:1/0", eager=True)


def test_a_send_is_handled_before_it_returns(orchestrator: Orchestrator) -> None:
    assert orchestrator.send("worker", agents_app.Add(a=1, b=2)).outcome() == Handled(3, 1)


def test_retries_do_not_wait(orchestrator: Orchestrator) -> None:
    before = time.monotonic()
    delivery = orchestrator.send(
        "worker", agents_app.Broken(), retry=Retry(max_retries=20, backoff=Exponential(initial_s=60, cap_s=3600))
    )
    assert time.monotonic() - before < 30
    outcome = delivery.outcome()
    assert isinstance(outcome, Dead)
    assert outcome.attempts == 21


def test_a_countdown_does_not_wait(orchestrator: Orchestrator) -> None:
    assert orchestrator.send("worker", agents_app.Add(a=1, b=2), countdown_s=3600).outcome() == Handled(3, 1)


@pytest.mark.parametrize(
    "due", [{"countdown_s": 61}, {"countdown_s": 60}, {"eta": datetime.now(UTC) + timedelta(hours=1)}]
)
def test_a_deadline_that_passes_before_the_message_is_due_is_refused(due: dict[str, Any]) -> None:
    hurried = agents_app.make("redis://127.0.0.1:1/0", eager=True, deadlines={"worker.Pay": 30, "plain.add": 30})
    for factor, said in ((1, "60.0 is not"), (0.5, "30.0 is not")):
        slow = agents_app.make("redis://127.0.0.1:1/0", eager=True, timeout_factor=factor)
        with pytest.raises(InvalidPolicy, match=rf"deadline_s={said}.* due in \d+.*said by send"):
            slow.send("worker", agents_app.Add(a=1, b=2), deadline_s=60, **due)
    with pytest.raises(InvalidPolicy, match="said by settings"):
        hurried.send("worker", agents_app.Pay(order_id="o", cents=1), **due)
    with pytest.raises(InvalidPolicy, match="said by settings"):
        hurried.send(hurried.app.tasks["plain.add"].s(1, 2).set(countdown=30))
    if "eta" not in due:
        with pytest.raises(InvalidPolicy):
            hurried.send_many("worker", [agents_app.Pay(order_id="o", cents=1)], **due)


def test_raise_raises_at_the_send(orchestrator: Orchestrator) -> None:
    with pytest.raises(SendFailed, match="retries exhausted") as failed:
        orchestrator.send("worker", agents_app.Broken(), on_error="raise")
    assert isinstance(failed.value.outcome, Dead)
    assert orchestrator.dead_letters.count() == 1


def test_raise_does_not_raise_what_was_handled(orchestrator: Orchestrator) -> None:
    assert orchestrator.send("worker", agents_app.Flaky(failures=2), on_error="raise").outcome() == Handled(3, 3)


def test_arguments_that_are_no_json_are_refused_as_a_broker_would(orchestrator: Orchestrator) -> None:
    with pytest.raises(InvalidMessage, match=r"plain\.add"):
        orchestrator.send(orchestrator.app.tasks["plain.add"].s(object(), 1))
    assert orchestrator.ledger() == []


def test_a_handler_gets_its_arguments_as_from_the_wire(orchestrator: Orchestrator) -> None:
    seen: list[Any] = []

    def look(values: Any) -> None:
        seen.append(values)

    look_task = orchestrator.app.task(name="plain.look", shared=False)(look)
    orchestrator.send(look_task.s((1, 2)))
    assert seen == [[1, 2]]


def test_a_signature_of_an_unknown_task_is_refused(orchestrator: Orchestrator) -> None:
    with pytest.raises(UnknownMessage, match=r"plain\.nothing"):
        orchestrator.send(orchestrator.app.signature("plain.nothing"))


def test_plain_celery_is_as_celery_has_it(orchestrator: Orchestrator) -> None:
    result = orchestrator.app.tasks["plain.add"].delay(1, 2)
    assert isinstance(result, EagerResult)
    assert result.get() == 3
    with pytest.raises(ValueError, match="no"):
        orchestrator.app.tasks["plain.fail"].delay("no").get()


def test_dead_letters_come_newest_first_and_page_by_page(orchestrator: Orchestrator) -> None:
    for n in range(5):
        orchestrator.send("worker", agents_app.Broken(text=f"n{n}"))
    log = orchestrator.dead_letters
    first = log.list(2)
    then = log.list(2, before=first[-1].id)
    assert [letter.error_message for letter in (*first, *then)] == ["n4", "n3", "n2", "n1"]
    assert log.count() == 5
    assert log.get(first[0].id) == first[0]


def test_a_retried_letter_runs_at_once_and_its_letter_says_where_it_came_from(orchestrator: Orchestrator) -> None:
    orchestrator.send("worker", agents_app.Broken(), metadata={"job": 1})
    (letter,) = orchestrator.dead_letters.list()
    assert orchestrator.dead_letters.replay(letter.id) == letter.delivery_id
    (again,) = orchestrator.dead_letters.list()
    assert again.replay_of == letter.id
    assert again.attempts == 3
    assert dict(again.metadata) == {"job": 1}
    (row,) = orchestrator.ledger()
    assert (row.accepted, row.dead, row.lost) == (2, 2, 0)


def test_an_unknown_letter_is_said_to_be_unknown(orchestrator: Orchestrator) -> None:
    log = orchestrator.dead_letters
    for ask in (log.get, log.replay):
        with pytest.raises(UnknownDeadLetter, match="unknown dead letter '5-5'"):
            ask("5-5")


def test_the_raw_message_is_what_a_broker_would_have_had(orchestrator: Orchestrator) -> None:
    orchestrator.send("worker", agents_app.Broken(text="ä"))
    (letter,) = orchestrator.dead_letters.list()
    envelope = json.loads(letter.raw)
    assert envelope["headers"]["task"] == "worker.Broken"
    assert letter.body() == [[{"text": "ä"}], {}]


def test_two_apps_share_nothing(orchestrator: Orchestrator) -> None:
    orchestrator.send("worker", agents_app.Broken())
    other = agents_app.make("redis://127.0.0.1:1/0", eager=True)
    assert other.ledger() == []
    assert other.dead_letters.count() == 0


def exported(raw: bytes, letter_id: str, reason: str = "retries exhausted") -> str:
    """A letter as a log on Redis exports it."""
    log = DeadLetters(InMemoryDeadLetterStore(lambda queue, raw: False, lambda: int(letter_id.split("-")[0])))
    log.store.add(raw, {"queue": "celery", "reason": reason, "error": {"type": "ValueError", "message": "no"}})  # type: ignore[attr-defined]
    (line,) = log.query().export()
    return line


def plain_letter(task: str, *args: Any, embed: Any = None, **headers: Any) -> bytes:
    """A message as a plain `.delay()` leaves it in its letter."""
    return json.dumps(
        envelope(task, body=json.dumps([args, {}, embed or {}]).encode(), headers={"id": f"of {task}", **headers})
    ).encode()


def test_imported_letters_of_plain_sends_are_executed_without_retries(orchestrator: Orchestrator) -> None:
    agents_app.NOTED.clear()
    log = orchestrator.dead_letters
    noted = orchestrator.app.tasks["plain.noted"]
    embed = {
        "callbacks": [noted.s(name="x")],
        "errbacks": None,
        "chain": [noted.si("last", name="x"), noted.si("second", name="x")],
        "chord": None,
    }
    lines = [
        exported(plain_letter("plain.add", 1, 2, embed=embed), "1000-0"),
        exported(plain_letter("plain.fail", "still broken"), "2000-0"),
        exported(plain_letter("worker.Add", {"a": 1, "b": 2}), "3000-0"),
    ]
    assert log.import_lines(lines) == (3, 0)
    assert log.query().replay(all=True).sent == 3
    assert agents_app.NOTED == ["3", "second", "last"]
    (left,) = log.list()
    assert (left.task, left.error_message, left.attempts) == ("plain.fail", "still broken", 1)
    assert "orc" not in json.loads(left.raw)["headers"]
    assert left.delivery_id == "of plain.fail"


@pytest.mark.parametrize(
    ("raw", "reason", "error"),
    [
        (b"\xff\x00", "malformed", "MalformedEntry"),
        (b"{}", "malformed", "MalformedEntry"),
        (json.dumps(envelope("plain.add", body=b"[1")).encode(), "malformed", "DecodeError"),
        (json.dumps(envelope("plain.add", body=b"[1]")).encode(), "malformed", "ValueError"),
        (json.dumps(envelope("plain.add", body=b"[{}, {}, {}]")).encode(), "malformed", "InvalidTaskError"),
        (json.dumps(envelope("plain.add", (1, 2), without=("id",))).encode(), "malformed", "InvalidTaskError"),
        (json.dumps(envelope("plain.add", without=("task",))).encode(), "malformed", "UnknownFormat"),
        (plain_letter("plain.add", 1, 2, orc={"retry": 5}), "malformed", "InvalidTaskError"),
        (plain_letter("plain.gone", 1), "unknown task", "NotRegistered"),
        (plain_letter("worker.Gone", 1), "unknown message", "UnknownMessage"),
    ],
)
def test_what_cannot_be_executed_is_dead_lettered_anew_and_stops_nobody(
    orchestrator: Orchestrator, raw: bytes, reason: str, error: str
) -> None:
    log = orchestrator.dead_letters
    orchestrator.send("worker", agents_app.Broken(), retry=Retry(max_retries=0))
    log.import_lines([exported(raw, "1000-0"), exported(plain_letter("plain.add", 1, 2), "2000-0")])
    before = {letter.id for letter in log.list()}
    assert log.query().replay(all=True).sent == 3
    dead = {letter.reason: letter for letter in log.list()}
    assert set(dead) == {reason, "retries exhausted"}
    assert dead[reason].error_type == error
    assert not before & {letter.id for letter in log.list()}
    assert all(row.balanced for row in orchestrator.ledger())
    # It can be read as before, and as often as anybody likes.
    assert log.query(reason=reason).replay().sent == 1
    assert log.query(reason=reason).count() == 1


def test_a_letter_keeps_the_trace_it_belongs_to(orchestrator: Orchestrator) -> None:
    delivery = orchestrator.send("worker", agents_app.Broken())
    (letter,) = orchestrator.dead_letters.list()
    envelope_ = json.loads(letter.raw)
    envelope_["headers"]["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    orchestrator.dead_letters.purge(all=True)
    orchestrator.dead_letters.import_lines([exported(json.dumps(envelope_).encode(), "1000-0")])
    orchestrator.dead_letters.query().replay(all=True)
    (again,) = orchestrator.dead_letters.list()
    assert again.delivery_id == delivery.id
    assert json.loads(again.raw)["headers"]["traceparent"] == envelope_["headers"]["traceparent"]
