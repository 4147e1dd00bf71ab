"""Names that nobody has: in the settings of a real worker, in `policies`, and as filters of `dead-letters`."""

from __future__ import annotations

import json

import pytest

from orchestrator import Orchestrator
from orchestrator.cli.dead_letters.group import dead_letters
from orchestrator.cli.policies import policies
from tests.apps.shop import make
from tests.support.command_line import invoke
from tests.support.eventually import eventually
from tests.support.letters_under_test import LettersInRedis
from tests.support.worker_process import WorkerProcess

MAILBOX = "mailboxes['biling']: no agent that is known here has this name; did you mean 'billing'?"
TIMEOUT = (
    "timeouts['billing.Chrage']: no agent, message or task that is known here has this name; "
    "did you mean 'billing.Charge'?"
)


def test_a_worker_warns_of_names_in_its_settings_that_nobody_has(redis_url: str, shop: Orchestrator) -> None:
    settings = {
        "ORCHESTRATOR_MAILBOXES": json.dumps({"biling": {"limit": 5}}),
        "ORCHESTRATOR_TIMEOUTS": json.dumps({"billing.Chrage": 5, "billing.Charge": 5, "shop.*": 9}),
    }
    with WorkerProcess("tests.apps.shop", redis_url, environment=settings) as worker:
        eventually(lambda: MAILBOX in worker.log() and TIMEOUT in worker.log(), 20, worker.log)
        assert worker.log().count("is known here has this name") == 2
        # What a living worker has announced is known to an app that does not declare it.
        stranger = make(redis_url, hosts=False, timeouts={"billing.Charge": 5, "biling": 3})
        said = json.loads(invoke(stranger.app, policies, "--json").stdout)["remarks"]
        assert [line for line in said if "known here" in line] == [
            "timeouts['biling']: no agent, message or task that is known here has this name; did you mean 'billing'?"
        ]


def test_a_worker_says_nothing_of_what_others_serve(redis_url: str) -> None:
    settings = {"ORCHESTRATOR_TIMEOUTS": '{"billing": 5, "shop.add": 7}'}
    deaf = "threads pool cannot interrupt"
    with WorkerProcess("tests.apps.shop", redis_url, pool="threads", queues="celery", environment=settings) as worker:
        eventually(lambda: "ready" in worker.log(), 20, worker.log)
        (line,) = [line for line in worker.log().splitlines() if deaf in line]
        assert "shop.add: a threads pool" in line
        assert "billing" not in line


@pytest.mark.parametrize("command", [("list",), ("groups",), ("replay", "--dry-run"), ("purge", "--dry-run")])
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--reason", "nonsense", "reason='nonsense' is not allowed; allowed: retries exhausted, "),
        ("--reason", "poisno", "; did you mean 'poison'?"),
        ("--agent", "biling", "unknown agent 'biling'; known agents: billing, shipping; did you mean 'billing'?"),
        ("--message", "Chrage", "allowed: a message or task that is known here; did you mean 'Charge'?"),
    ],
)
def test_a_name_that_nobody_has_is_no_filter(
    shop: Orchestrator, letter_log: LettersInRedis, command: tuple[str, ...], option: str, value: str, said: str
) -> None:
    letter_log.add_letter(agent="shipping")
    refused = invoke(shop.app, dead_letters, *command, option, value)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert said in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_name_that_somebody_has_is_a_filter_without_letters_too(
    shop: Orchestrator, letter_log: LettersInRedis
) -> None:
    letter_log.add_letter(agent="shipping", error="KeyError")
    for option, value, count in (
        ("--reason", "poison", 0), ("--agent", "billing", 0), ("--agent", "shipping", 1), ("--message", "Refund", 0),
        ("--message", "shop.add", 0), ("--error", "KeyError", 1),
    ):  # fmt: skip
        found = invoke(shop.app, dead_letters, "list", option, value, "--json")
        assert (found.exit_code, found.stderr) == (0, "")
        assert json.loads(found.stdout)["count"] == count
    found = invoke(shop.app, dead_letters, "list", "--error", "KyeError", "--json")
    assert (found.exit_code, json.loads(found.stdout)["count"]) == (0, 0)
    assert found.stderr == "No dead letter has the error 'KyeError'; did you mean 'KeyError'?\n"
