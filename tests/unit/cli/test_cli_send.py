"""`send`, in eager mode: what is refused, what is printed, and the exit codes."""

import json
from typing import Any

import pytest

from orchestrator import Orchestrator
from orchestrator.cli.dead_letters.group import dead_letters
from orchestrator.cli.ledger import ledger
from orchestrator.cli.send import send
from tests.apps.shop import make
from tests.support.command_line import invoke


@pytest.fixture
def shop() -> Orchestrator:
    orchestrator = make("redis://127.0.0.1:1/0")
    orchestrator.app.conf.task_always_eager = True
    return orchestrator


def charge(**fields: object) -> str:
    return json.dumps({"order_id": "o1", "cents": 5, **fields})


def test_a_handled_message(shop: Orchestrator) -> None:
    result = invoke(shop.app, send, "billing", "Charge", charge(card_number="4111"), "--wait", "1")
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert first.endswith("  Charge to billing")
    assert second.startswith("handled at attempt 1: ")
    assert json.loads(second.partition(": ")[2]) == {
        "order_id": "o1",
        "charged": 5,
        "card_number": "**redacted**",
    }
    assert result.stderr == ""


def test_a_dead_message(shop: Orchestrator) -> None:
    result = invoke(
        shop.app, send, "billing", "Refund", '{"order_id": "o1"}', "--wait", "1", "--retries", "0", "--json",
        "--metadata", "job=123", "--metadata", "note=a=b",
    )  # fmt: skip
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["outcome"]["outcome"] == "dead"
    assert document["outcome"]["attempts"] == 1
    assert "4111" not in result.stdout
    assert result.stderr == f"Error: delivery {document['id']} was not handled\n"
    (letter,) = shop.dead_letters.list()
    assert letter.metadata == {"job": "123", "note": "a=b"}
    assert letter.delivery_id == document["id"]


def test_an_outcome_that_nobody_waited_for_is_not_printed(shop: Orchestrator) -> None:
    result = invoke(shop.app, send, "billing", "Charge", charge(), "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["outcome"] is None


def test_fields_from_standard_input(shop: Orchestrator) -> None:
    result = invoke(shop.app, send, "billing", "Charge", "-", "--wait", "1", "--json", stdin=charge(cents=7))
    assert json.loads(result.stdout)["outcome"]["result"]["charged"] == 7


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("nobody", "Charge", "{}"), "Error: unknown agent 'nobody'; known agents: billing\n"),
        (
            ("billing", "Charje", "{}"),
            "Error: agent 'billing' does not handle 'Charje'; it handles: Charge, Reconcile, Refund; did you mean",
        ),
        (("billing", "Charge", "{"), "Error: invalid Charge: not JSON: "),
        (("billing", "Charge", '{"cents": NaN}'), "Error: invalid Charge: not JSON: NaN is not JSON\n"),
        (("billing", "Charge", "[" * 200_000), "Error: invalid Charge: not JSON: "),
        (("billing", "Charge", "[1]"), "Error: invalid Charge: the JSON is not an object\n"),
        (("billing", "Charge", charge(cents=-5)), "Error: invalid Charge: cents=-5: "),
        (("billing", "Charge", '{"order_id": "o1"}'), "Error: invalid Charge: cents: Field required\n"),
        (("billing", "Charge", charge(typo=1)), "Error: invalid Charge: typo=1: "),
        (("billing", "Charge", charge(), "--retries", "-1"), "Error: retries=-1 is not allowed; "),
        (("billing", "Charge", charge(), "--priority", "10"), "Error: priority=10 is not allowed; "),
        (("billing", "Charge", charge(), "--timeout", "0"), "Error: timeout_s=0.0 is not allowed; "),
        (("billing", "Charge", charge(), "--timeout", "9", "--deadline", "5"), "Error: timeout_s=9.0 is not allowed; "),
        (("billing", "Charge", charge(), "--idempotency-key", ""), "Error: idempotency_key='' is not allowed; "),
    ],
)
def test_what_cannot_be_sent_is_refused_in_one_line(shop: Orchestrator, arguments: tuple[str, ...], error: str) -> None:
    result = invoke(shop.app, send, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(error)
    assert result.stderr.count("\n") == 1
    assert shop.ledger() == []


@pytest.mark.parametrize(("option", "value"), [("--countdown", "nan"), ("--expires", "-1"), ("--wait", "soon")])
def test_what_is_no_duration_is_a_usage_error(shop: Orchestrator, option: str, value: str) -> None:
    result = invoke(shop.app, send, "billing", "Charge", charge(), option, value)
    assert result.exit_code == 2
    assert f"'{option}': '{value}' is not a duration; allowed: seconds, or as 500ms, 90s," in result.stderr


def test_a_duration_may_have_units(shop: Orchestrator) -> None:
    result = invoke(shop.app, send, "billing", "Charge", charge(), "--expires", "1h30m", "--wait", "5s")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    "option", [("--wait", "0"), ("--wait", "nan"), ("--metadata", "job"), ("--metadata", "=1"), ("--on-error", "no")]
)
def test_options_are_checked_before_anything_is_sent(shop: Orchestrator, option: tuple[str, str]) -> None:
    result = invoke(shop.app, send, "billing", "Charge", charge(), *option)
    assert result.exit_code == 2
    assert option[0] in result.stderr
    assert shop.ledger() == []


def test_every_option_reaches_the_send(shop: Orchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, object] = {}
    real = shop.send

    def heard(*args: Any, **options: Any) -> Any:
        said.update(options)
        return real(*args, **options)

    monkeypatch.setattr(shop, "send", heard)
    words = "--on-error log --countdown 0.5 --expires 60 --no-dead-letter-expired --timeout 5"
    words += " --deadline 30 --when-down error --when-open queue"
    words += " --priority 3 --idempotency-key"
    result = invoke(shop.app, send, "billing", "Charge", charge(), *words.split(), "order o1")
    assert result.exit_code == 0, result.stderr
    assert said == {
        "retry": None,
        "on_error": "log",
        "countdown_s": 0.5,
        "expires_s": 60.0,
        "dead_letter_expired": False,
        "timeout_s": 5.0,
        "deadline_s": 30.0,
        "when_down": "error",
        "when_open": "queue",
        "priority": 3,
        "idempotency_key": "order o1",
        "metadata": {},
    }
    invoke(shop.app, send, "billing", "Charge", charge())
    assert said["dead_letter_expired"] is None


def test_a_key_that_was_used_runs_nothing_again(shop: Orchestrator) -> None:
    for _ in range(2):
        said = invoke(shop.app, send, "billing", "Charge", charge(), "--idempotency-key", "order o1", "--wait", "1")
        assert said.exit_code == 0, said.stderr
    (row,) = shop.ledger()
    assert row.accepted == 1


def test_a_refused_secret_is_not_repeated(shop: Orchestrator) -> None:
    result = invoke(shop.app, send, "billing", "Charge", charge(card_number=[4111]))
    assert result.exit_code == 2
    assert "card_number=**redacted**" in result.stderr
    assert "4111" not in result.stderr


def test_the_other_commands_show_what_was_sent(shop: Orchestrator) -> None:
    invoke(shop.app, send, "billing", "Refund", '{"order_id": "o1"}')
    (letter,) = json.loads(invoke(shop.app, dead_letters, "list", "--json").stdout)["letters"]
    assert letter["reason"] == "retries exhausted"
    assert "billing" in invoke(shop.app, ledger).stdout
