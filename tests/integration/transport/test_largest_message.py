"""``max_message_bytes``: a larger message is refused at every door, by size and limit, and nothing is left of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from orchestrator import InvalidExport, MessageTooLarge, Orchestrator, load_settings
from orchestrator.core.errors import InvalidSettings
from orchestrator.transport import publishing
from orchestrator.transport.options import Options
from tests.apps import flow_app
from tests.support.bare_broker import BareBroker
from tests.support.letters_under_test import LettersInRedis

LIMIT = 4000
LARGE = "x" * LIMIT


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("sizes", broker=redis_url, set_as_current=False)
    Orchestrator(app, load_settings(max_message_bytes=LIMIT)).host(flow_app.Europe, flow_app.America)

    @app.task(name="note", shared=False)
    def note(text: str) -> None: ...

    yield app
    app.close()


DOORS: dict[str, Callable[[Any, str], Any]] = {
    "send": lambda app, text: app.orchestrator.send("eu", flow_app.Reprice(fails_at=text)),
    "send a task": lambda app, text: app.orchestrator.send(app.tasks["note"].s(text)),
    "send_many": lambda app, text: app.orchestrator.send_many("eu", [flow_app.Reprice(fails_at=text)] * 2),
    "countdown": lambda app, text: app.orchestrator.send("eu", flow_app.Reprice(fails_at=text), countdown_s=60),
    "key": lambda app, text: app.orchestrator.send("eu", flow_app.Reprice(fails_at=text), idempotency_key=text[:1]),
    "broadcast": lambda app, text: app.orchestrator.broadcast(["eu", "us"], flow_app.Reprice(fails_at=text)),
    "apply_async": lambda app, text: app.tasks["note"].apply_async([text]),
    "send_task": lambda app, text: app.send_task("note", [text], countdown=60),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_message_that_is_too_large_is_refused(app: Any, door: str) -> None:
    with pytest.raises(MessageTooLarge) as refused:
        DOORS[door](app, LARGE)
    assert refused.value.limit == LIMIT
    assert refused.value.size > LIMIT
    assert str(refused.value).startswith(f"message of {refused.value.size} bytes")
    assert f"allowed: {LIMIT} (max_message_bytes)" in str(refused.value)
    assert all(row.accepted == 0 for row in app.orchestrator.ledger())
    assert not list(app.orchestrator.runtime.store.client.keys("*orc:idempotency:*"))
    DOORS[door](app, "x")


def test_an_edited_letter_and_an_imported_one_are_refused_too(redis_url: str) -> None:
    letter_log = LettersInRedis(redis_url, (), None)
    letter_id = letter_log.add_letter(body={"order_id": "o1", "cents": 5})
    (line,) = letter_log.log.query().export()
    letter_log.letter_store.max_message_bytes = LIMIT
    with pytest.raises(MessageTooLarge):
        letter_log.log.edit_and_replay(letter_id, {"order_id": LARGE})
    assert [act.kind for act in letter_log.log.audit()] == ["export"]
    row = json.loads(line) | {"id": "1-1"}
    row["message"] = json.dumps({"headers": {"task": "t"}, "body": LARGE})
    with pytest.raises(InvalidExport, match=rf"line 2\b.*message of \d+ bytes.*allowed: {LIMIT}"):
        letter_log.log.import_lines([json.dumps(json.loads(line) | {"id": "1-2"}), json.dumps(row)])
    assert letter_log.log.count() == 2
    letter_log.close()


def test_the_transport_alone_warns_once_for_a_queue(
    broker: BareBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publishing, "LARGE_BYTES", LIMIT)
    warnings = caplog.at_level(logging.WARNING, logger="orchestrator.transport.publishing")
    # A connection of its own: a channel that was opened before has the limit of then.
    with warnings, broker.app.connection_for_write() as connection:
        for text in (LARGE, LARGE, "x"):
            broker.app.send_task("note", (text,), connection=connection)
    # Threads of other apps in this process log, too.
    (record,) = [one for one in caplog.records if one.name == "orchestrator.transport.publishing"]
    assert "bytes for celery" in record.getMessage()
    assert "max_message_bytes" in record.getMessage()
    assert broker.ledger().accepted == 3


@pytest.mark.parametrize("value", [-1, True, 1.5, "1"])
def test_a_limit_that_is_no_number_of_bytes_is_refused(value: Any) -> None:
    with pytest.raises(InvalidSettings, match="max_message_bytes"):
        Options(max_message_bytes=value)
