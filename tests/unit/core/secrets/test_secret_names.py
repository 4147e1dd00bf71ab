"""Which fields are secret is known of the model, and said with what is sent."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ConfigDict, Field, RootModel, SecretStr

from orchestrator import Dead, Message
from orchestrator.cli.dead_letters.group import dead_letters
from orchestrator.cli.dead_letters.letters import raw_message
from orchestrator.core.deliveries.supervision import HEADER, Supervision, hide_in
from orchestrator.core.message import encode
from orchestrator.core.secrets.redact import HIDDEN
from orchestrator.core.secrets.secret_names import secret_names
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.sending.messages.message_texts import arguments_text
from tests.apps import secrets_app as app
from tests.apps.secrets_app import SECRET
from tests.support.command_line import invoke
from tests.unit.deadletters.test_letter import as_bytes, letter_of


class Word(RootModel[SecretStr]):
    pass


class Tree(Message):
    leaf: SecretStr
    word: Word | None = None
    branches: tuple[Tree, ...] = ()


class Aliased(Message):
    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)
    code: SecretStr = Field(alias="Code", serialization_alias="TheCode")


class Schemaless(Message):
    pin: SecretStr
    call: Callable[[], None] | None = None


class Properties(Message):
    properties: dict[str, int]
    pin: SecretStr


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (app.Greet, ()),
        (app.Pay, app.NAMES),
        (Tree, ("leaf", "word")),
        (Aliased, ("Code", "TheCode", "code")),
        (Schemaless, ("call", "pin")),
        (Properties, ("pin",)),
    ],
)
def test_the_secret_fields_of_a_model(model: type[Message], names: tuple[str, ...]) -> None:
    assert secret_names(model) == names


def test_only_what_has_secrets_says_so() -> None:
    assert "hide" not in Supervision().to_wire()
    wire = Supervision(hide=("pin",)).to_wire()
    assert wire["hide"] == ["pin"]
    assert Supervision.from_wire(wire) == Supervision(hide=("pin",), track=True)


@pytest.mark.parametrize("headers", [None, [], {}, {HEADER: 1}, {HEADER: {"hide": "pin"}}, {HEADER: {"hide": [1]}}])
def test_headers_of_any_kind_are_asked(headers: Any) -> None:
    assert hide_in(headers) == ()


def test_arguments_are_shown_without_secrets() -> None:
    assert SECRET not in arguments_text([encode(app.pay())], app.NAMES)


@pytest.fixture
def letter() -> DeadLetter:
    """Of a message whose handler has failed, naming a secret."""
    orchestrator = app.make(eager=True)
    outcome = orchestrator.send("clerk", app.pay()).outcome()
    assert isinstance(outcome, Dead)
    assert outcome.letter_id is not None
    return orchestrator.dead_letters.get(outcome.letter_id)


def test_a_letter_is_shown_without_secrets_and_kept_with_them(letter: DeadLetter) -> None:
    document = letter.shown(())
    assert SECRET not in json.dumps(document)
    fields = document["body"][0][0]
    assert (fields["user"], fields["pin"], fields["doors"]) == ("u", HIDDEN, HIDDEN)
    assert fields["homes"] == [{"street": "s", "door": HIDDEN}]
    assert SECRET not in json.dumps(raw_message(letter, ()))
    assert letter.body()[0][0]["pin"] == SECRET


def test_a_letter_whose_supervision_cannot_be_read_keeps_its_secrets_too(letter: DeadLetter) -> None:
    envelope = json.loads(letter.raw)
    envelope["headers"][HEADER]["retry"] = "nonsense"
    assert SECRET not in json.dumps(letter_of(as_bytes(envelope)).shown(()))


def test_a_secret_cannot_be_searched_for_nor_seen_in_an_edit() -> None:
    orchestrator = app.make(eager=True, redact=())
    orchestrator.send("clerk", app.pay())
    log = orchestrator.dead_letters
    assert log.query(text=SECRET).count() == 0
    assert log.query(text="clerk").count() == 1
    (letter,) = log.list(1)
    changes = {"pin": f"{SECRET}2", "user": "v"}
    diff = log.edit(letter.id, changes).diff()
    assert "v" in diff
    assert SECRET not in diff
    log.edit_and_replay(letter.id, changes)
    assert SECRET not in repr(log.audit(10))


def test_an_edit_names_the_secrets_that_it_changes() -> None:
    orchestrator = app.make(eager=True, redact=())
    orchestrator.send("clerk", app.pay())
    log = orchestrator.dead_letters
    (letter,) = log.list(1)
    changes = {"pin": f"{SECRET}2", "doors": {"front": f"{SECRET}3"}, "homes": [{"street": "s", "door": SECRET}]}
    diff = log.edit(letter.id, changes).diff()
    assert diff.splitlines()[-1].startswith("# changed, values hidden: ")
    assert {"pin", "doors"} <= set(diff.splitlines()[-1].partition(": ")[2].split(", "))
    assert SECRET not in diff
    assert log.edit(letter.id, {"user": letter.body()[0][0]["user"]}).diff() == "# nothing changes"
    orchestrator.dead_letters.edit_and_replay(letter.id, changes)
    assert "pin" in repr(log.audit(10))


def test_a_dry_run_of_an_edit_of_a_secret_names_it() -> None:
    orchestrator = app.make(eager=True, redact=())
    orchestrator.send("clerk", app.pay())
    (letter,) = orchestrator.dead_letters.list(1)
    change = json.dumps({"pin": f"{SECRET}2"})
    result = invoke(orchestrator.app, dead_letters, "edit", letter.id, change, "--dry-run")
    assert result.stdout == "# changed, values hidden: pin\n"
    assert "how many" not in invoke(orchestrator.app, dead_letters, "edit", "--help").stdout


def test_a_secret_that_an_error_names_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    orchestrator = app.make(eager=True, telemetry=["logging"], redact=())
    with caplog.at_level(logging.INFO):
        orchestrator.send("clerk", app.pay(), on_error="log")
        orchestrator.send("clerk", app.pay())
    assert "dropped after its last attempt: ValueError: no money for pin=" in caplog.text
    assert "dead_letter.added" in caplog.text
    assert SECRET not in caplog.text


def test_an_export_has_it_all() -> None:
    orchestrator = app.make(eager=True)
    orchestrator.send("clerk", app.pay())
    (letter,) = orchestrator.dead_letters.list(1)
    exported = io.StringIO("\n".join(orchestrator.dead_letters.query().export()))
    other = app.make(eager=True)
    other.dead_letters.import_lines(exported)
    assert [there.raw for there in other.dead_letters.list(1)] == [letter.raw]
