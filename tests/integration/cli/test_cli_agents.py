"""`agents` and `send` against real workers."""

import json
from importlib.metadata import version

from orchestrator.cli.agents.command import agents
from orchestrator.cli.ledger import ledger
from orchestrator.cli.send import send
from tests.apps.shop import make
from tests.support.command_line import invoke
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess


def test_an_agent_is_up_while_its_worker_lives_and_its_death_has_a_reason(redis_url: str) -> None:
    shop = make(redis_url)
    stranger = make(redis_url, hosts=False)
    before = json.loads(invoke(shop.app, agents, "--json").stdout)
    assert [(a["name"], a["state"], a["announced"]) for a in before["agents"]] == [("billing", "down", False)]
    assert "known agents: none" in invoke(stranger.app, send, "billing", "Charge", "{}").stderr

    with WorkerProcess("tests.apps.shop", redis_url, environment={"ORCHESTRATOR_APP_VERSION": "7.1"}) as worker:
        incarnation = worker.incarnation
        document = eventually(lambda: _if_up(json.loads(invoke(shop.app, agents, "--json").stdout)))
        (billing,) = document["agents"]
        assert billing["incarnations"] == [incarnation]
        (living,) = document["incarnations"]
        assert living["agents"] == ["billing"]
        assert living["messages"] == {"billing": ["Charge", "Reconcile", "Refund"]}
        assert (living["pool"], living["concurrency"], living["load"]) == ("solo", 1, 0.0)
        assert (living["app_version"], living["library_version"]) == ("7.1", version("celery-orchestrator"))
        assert {"billing", "celery"} <= set(living["queues"])
        assert document["deaths"] == []
        table = invoke(shop.app, agents).stdout
        assert incarnation in table
        assert "Last deaths\n  none" in table

        # An app that does not declare the agent knows it from Redis, and leaves the checking to it.
        fields = '{"order_id": "o1", "cents": 5, "copy": "x"}'
        stranger = make(redis_url, hosts=False)
        refused = invoke(stranger.app, send, "billing", "Charge", fields, "--wait", "20", "--json")
        assert refused.exit_code == 1
        assert "copy='x': Extra inputs are not permitted" in json.loads(refused.stdout)["outcome"]["error"]
        handled = invoke(stranger.app, send, "billing", "Reconcile", '{"failures": 2}', "--wait", "20", "--json")
        assert json.loads(handled.stdout)["outcome"] == {"outcome": "handled", "result": 3, "attempts": 3}
        unknown = invoke(stranger.app, send, "billing", "Charje", fields)
        assert unknown.exit_code == 2
        assert unknown.stderr.startswith("Error: agent 'billing' does not handle 'Charje'; it handles: Charge, ")
        worker.kill()

        eventually(lambda: shop.runtime.redis.sweep().dead or shop.registry.deaths())
        after = json.loads(invoke(shop.app, agents, "--json").stdout)
        assert after["incarnations"] == []
        assert [(a["name"], a["state"]) for a in after["agents"]] == [("billing", "down")]
        assert [(d["incarnation"], d["reason"]) for d in after["deaths"]] == [(incarnation, "killed")]
        assert "killed" in invoke(shop.app, agents).stdout
        (billing,) = after["agents"]
        assert (billing["last_death"]["incarnation"], billing["last_death"]["reason"]) == (incarnation, "killed")
        assert json.loads(invoke(shop.app, agents, "--deaths", "0", "--json").stdout)["deaths"] == []


def _if_up(document: dict) -> dict:
    # A worker makes its queues known one after the other.
    known = {queue for living in document["incarnations"] for queue in living["queues"]}
    up = document["agents"] and document["agents"][0]["state"] == "up" and {"billing", "celery"} <= known
    return document if up else {}


def test_a_delivery_that_is_still_pending(redis_url: str) -> None:
    shop = make(redis_url)
    arguments = ("billing", "Charge", '{"order_id": "o1", "cents": 5}', "--wait", "0.05")
    result = invoke(shop.app, send, *arguments)
    assert result.exit_code == 3
    delivery = result.stdout.split()[0]
    assert result.stderr == f"Error: delivery {delivery} has no recorded outcome after 0.05 s\n"
    result = invoke(shop.app, send, *arguments, "--json", "--countdown", "60")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["outcome"] is None
    (row,) = [r for r in shop.ledger() if r.queue == "billing"]
    assert (row.ready, row.delayed) == (1, 1)


def test_the_ledger_balances_or_the_exit_code_says_so(redis_url: str) -> None:
    shop = make(redis_url)
    assert invoke(shop.app, ledger).exit_code == 0
    invoke(shop.app, send, "billing", "Charge", '{"order_id": "o1", "cents": 5}')
    document = json.loads(invoke(shop.app, ledger, "--json").stdout)
    billing = next(row for row in document["mailboxes"] if row["queue"] == "billing")
    assert (billing["accepted"], billing["pending"], billing["ready"], billing["lost"]) == (1, 1, 1, 0)
    assert document["total"]["accepted"] == 1
    # A message that vanishes behind the ledger's back is what the ledger is for.
    shop.runtime.store.client.delete(*shop.runtime.store.streams("billing"))
    result = invoke(shop.app, ledger)
    assert result.exit_code == 1
    assert "total" in result.stdout
    assert result.stderr == "Error: the ledger does not balance; lost: billing +1\n"
    assert json.loads(invoke(shop.app, ledger, "--json").stdout)["balanced"] is False
