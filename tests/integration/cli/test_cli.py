"""The real ``celery`` executable: our subcommands are there, and what goes wrong is one line and an exit code."""

import json
import socket

import pytest

from orchestrator.cli.agents.command import agents
from orchestrator.cli.dead_letters.group import dead_letters
from orchestrator.cli.ledger import ledger
from orchestrator.cli.policies import policies
from orchestrator.embedded import EmbeddedServer
from tests.apps import agents_app
from tests.apps.shop import make
from tests.support.command_line import celery, invoke
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

SHOP = ("-A", "tests.apps.shop")

# Nothing listens there.
AWAY = "redis://:hush@127.0.0.1:1/0"


def test_one_json_document_and_nothing_else(redis_url: str) -> None:
    done = celery(*SHOP, "ledger", "--json", ORCHESTRATOR_BROKER_URL=redis_url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["balanced"] is True
    assert done.stderr == ""


def test_help_documents_the_exit_codes() -> None:
    done = celery(*SHOP, "send", "--help")
    assert done.returncode == 0
    assert "4  the broker did not answer" in done.stdout
    commands = celery(*SHOP, "--help").stdout
    assert all(f"  {name} " in commands for name in ("agents", "send", "dead-letters", "ledger"))


def test_an_app_without_orchestrator() -> None:
    done = celery("ledger")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: the Celery app 'default' has no Orchestrator; ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("ledger",), ("worker",)])
def test_bad_settings_are_one_line_whatever_the_command(command: tuple[str, ...]) -> None:
    done = celery(*SHOP, *command, ORCHESTRATOR_LEASE_S="abc")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: invalid settings: lease_s='abc': ")
    assert done.stderr.count("\n") == 1


def test_an_app_that_cannot_be_imported_keeps_its_stack_trace() -> None:
    done = celery("-A", "tests.apps.nowhere_to_be_found", "ledger")
    assert done.returncode != 0
    assert "nowhere_to_be_found" in done.stderr


@pytest.mark.parametrize(
    "command", [("ledger", "--json"), ("send", "billing", "Charge", '{"order_id": "o1", "cents": 5}')]
)
def test_a_broker_that_is_away(command: tuple[str, ...]) -> None:
    done = celery(*SHOP, *command, ORCHESTRATOR_BROKER_URL=AWAY)
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.startswith("Error: broker redis://")
    assert "hush" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_broker_url_that_is_none() -> None:
    done = celery(*SHOP, "ledger", ORCHESTRATOR_BROKER_URL="redis://:hush@127.0.0.1:none/0")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: invalid settings: broker_url")
    assert "hush" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_celerys_own_broker_option_counts(redis_url: str) -> None:
    done = celery(*SHOP, "-b", redis_url, "ledger", ORCHESTRATOR_BROKER_URL=AWAY)
    assert done.returncode == 0, done.stderr


def test_a_broker_that_takes_the_connection_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        shop = make(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        shop.app.conf.broker_transport_options = {**shop.app.conf.broker_transport_options, "socket_timeout": 0.2}
        result = invoke(shop.app, dead_letters, "list")
    assert result.exit_code == 4
    assert result.stderr.startswith("Error: broker redis://127.0.0.1:")
    assert result.stderr.count("\n") == 1


def test_a_broker_that_has_gone_since() -> None:
    with EmbeddedServer() as server:
        shop = make(server.url)
        assert invoke(shop.app, ledger).exit_code == 0
    for command in (ledger, agents):
        result = invoke(shop.app, command)
        assert result.exit_code == 4
        assert result.stderr.count("\n") == 1


def test_what_a_pool_cannot_do_is_said_of_the_mailboxes_that_it_serves_only(redis_url: str) -> None:
    app = agents_app.make(redis_url).app
    solo, threads = "worker.Hurried: a solo pool", "worker.Hurried: a threads pool"
    with WorkerProcess("tests.apps.agents_app", redis_url, name="elsewhere", pool="solo", queues="elsewhere") as idle:
        eventually(lambda: '"solo"' in invoke(app, agents, "--json").stdout, describe=idle.log)
        assert solo not in idle.log()
        assert solo not in invoke(app, policies).stdout
        with WorkerProcess("tests.apps.agents_app", redis_url, name="serves", pool="threads", queues="worker") as busy:
            eventually(lambda: threads in invoke(app, policies).stdout, describe=busy.log)
            assert solo not in invoke(app, policies).stdout
            assert threads in busy.log()
