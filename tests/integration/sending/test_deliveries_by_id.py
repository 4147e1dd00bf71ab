"""A delivery is found by its id, in any process, wherever it is; and an id that leads nowhere is an error at once."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from orchestrator import Cancelled, CancelResult, Dead, Delivery, Handled, Orchestrator, Retry, Status
from orchestrator.cli.delivery import delivery as command
from orchestrator.core.errors import DetachedDelivery, UnknownDelivery, UntrackedDelivery
from tests.apps.shop import Charge, Reconcile, Refund, make
from tests.support.command_line import celery, invoke
from tests.support.eventually import eventually
from tests.support.worker_process import ROOT, WorkerProcess

CHARGE = Charge(order_id="o1", cents=5)
WAIT_S = 30.0

FOLLOW = """
import pickle, sys
from tests.apps.shop import make
shop = make(sys.argv[1])
for delivery in pickle.loads(bytes.fromhex(sys.argv[2])):
    print(shop.delivery(delivery).wait(30), shop.delivery(delivery.id).status())
"""


@pytest.fixture
def elsewhere(redis_url: str) -> Iterator[Orchestrator]:
    """The same app in another web process, say."""
    made = make(redis_url)
    yield made
    made.app.close()


def test_what_waits_is_found_and_cancelled_by_its_id(shop: Orchestrator, elsewhere: Orchestrator) -> None:
    sent = shop.send("billing", CHARGE)
    found = elsewhere.delivery(sent.id)
    assert (found.id, found.agent, found.message, found.queue) == (sent.id, "billing", "Charge", "billing")
    assert found.status() is Status.PENDING
    assert found.outcome() is None
    assert found.cancel() is CancelResult.CANCELLED
    assert elsewhere.delivery(sent.id).wait(timeout_s=5) == Cancelled("sender")
    assert elsewhere.delivery(sent.id).cancel() is CancelResult.TOO_LATE


def test_what_is_scheduled_and_plain_tasks_are_found_in_whatever_mailbox(
    shop: Orchestrator, elsewhere: Orchestrator
) -> None:
    later = shop.send("billing", CHARGE, countdown_s=3600)
    plain = shop.send(shop.app.tasks["shop.add"].s(1, 2))
    celerys = shop.app.tasks["shop.add"].apply_async((1, 2), queue="another")
    assert elsewhere.delivery(later.id).status() is Status.SCHEDULED
    assert elsewhere.delivery(plain.id).queue == "celery"
    assert elsewhere.delivery(celerys.id).queue == "another"
    assert elsewhere.delivery(celerys.id).cancel() is CancelResult.CANCELLED


@pytest.mark.parametrize("wrong", ["nobody", "", "a b", "\x00", "é\ud800", None, 5])
def test_an_id_that_leads_nowhere_is_an_error_at_once(shop: Orchestrator, wrong: Any) -> None:
    shop.send("billing", CHARGE)
    with pytest.raises(UnknownDelivery, match="unknown delivery"):
        shop.delivery(wrong)


def test_what_is_not_tracked_cannot_be_waited_for(shop: Orchestrator, elsewhere: Orchestrator) -> None:
    sent = shop.send("billing", CHARGE, track=False)
    (many,) = shop.send_many("billing", [CHARGE], track=False)
    for one in (sent, many, elsewhere.delivery(sent.id)):
        assert one.status() is Status.PENDING
        with pytest.raises(UntrackedDelivery, match="was sent with track=False"):
            one.wait(timeout_s=WAIT_S)
    assert sent.cancel() is CancelResult.CANCELLED
    tracked = shop.send("billing", CHARGE)
    shop.app.control.purge()
    assert elsewhere.delivery(tracked.id).status() is Status.CANCELLED
    with pytest.raises(UnknownDelivery):
        elsewhere.delivery(many.id)


def test_a_pickled_delivery_is_followed_in_another_process(redis_url: str, shop: Orchestrator) -> None:
    one = shop.send("billing", CHARGE)
    many = shop.send_many("billing", [CHARGE, Reconcile(failures=1)])
    raw = pickle.dumps([one, *many])
    again = pickle.loads(raw)
    assert again == [one, *many]
    for detached in (again[0], copy.deepcopy(one), pickle.loads(pickle.dumps(many))[1]):
        for use in (detached.status, detached.history, detached.cancel, detached.outcome, partial(detached.wait, 1)):
            with pytest.raises(DetachedDelivery, match=r"allowed: orchestrator\.delivery\("):
                use()
    assert shop.delivery(again[0]).status() is Status.PENDING
    with WorkerProcess("tests.apps.shop", redis_url):
        asked = subprocess.run(
            [sys.executable, "-c", FOLLOW, redis_url, raw.hex()],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert [line.rpartition(" ")[2] for line in asked.stdout.splitlines()] == ["handled"] * 3
        report = pickle.loads(pickle.dumps(shop.broadcast(["billing"], CHARGE)))
        with pytest.raises(DetachedDelivery):
            report.wait(timeout_s=1)
        assert isinstance(shop.delivery(report.deliveries["billing"]).wait(timeout_s=WAIT_S), Handled)


def test_what_a_worker_has_ended_is_found_by_its_id(
    redis_url: str, shop: Orchestrator, elsewhere: Orchestrator
) -> None:
    with WorkerProcess("tests.apps.shop", redis_url) as worker:
        handled = shop.send("billing", Reconcile(failures=1))
        dead = shop.send("billing", Refund(order_id="o1"), on_error="raise")
        silent = shop.send("billing", Refund(order_id="o2"), track=False)
        assert elsewhere.delivery(handled.id).wait(timeout_s=WAIT_S) == Handled(2, 2)
        assert len(elsewhere.delivery(handled.id).history()) == 2
        ended = elsewhere.delivery(dead.id).wait(timeout_s=WAIT_S)
        assert isinstance(ended, Dead)
        assert ended.reason == "retries exhausted"

        # Nothing is recorded of what is not tracked; but its dead letter names it.
        (letter,) = eventually(
            lambda: [one for one in elsewhere.dead_letters.list() if one.delivery_id == silent.id], 20, worker.log
        )
        found = elsewhere.delivery(silent.id)
        assert (found.status(), found.agent, found.message) == (Status.DEAD, "billing", "Refund")
        outcome = found.wait(timeout_s=1)
        assert isinstance(outcome, Dead)
        assert (outcome.letter_id, outcome.attempts, len(found.history())) == (letter.id, 3, 3)
        assert found.cancel() is CancelResult.TOO_LATE


def test_the_command_line_follows_an_id(redis_url: str, shop: Orchestrator) -> None:
    sent = shop.send("billing", CHARGE)

    def run(*arguments: str, code: int = 0) -> str:
        result = invoke(shop.app, command, *arguments)
        assert result.exit_code == code, result.output
        return result.stdout

    assert json.loads(run("show", sent.id, "--json"))["status"] == "pending"
    assert "billing" in run("show", sent.id)
    run("wait", sent.id, "--timeout", "0.05s", code=3)
    run("show", "nobody", code=2)
    run("wait", "nobody", code=2)
    run("history", "nobody", code=2)
    run("cancel", "nobody", code=2)
    assert json.loads(run("cancel", sent.id, "--json")) == {"id": sent.id, "cancelling": "cancelled"}
    run("cancel", sent.id, code=1)
    assert json.loads(run("wait", sent.id, "--json", code=1))["outcome"] == {"outcome": "cancelled", "by": "sender"}
    assert run("wait", sent.id, code=1) == "cancelled by sender\n"
    untracked = shop.send("billing", CHARGE, track=False)
    run("wait", untracked.id, code=2)
    done = celery("-A", "tests.apps.shop", "delivery", "show", sent.id, ORCHESTRATOR_BROKER_URL=redis_url)
    assert done.returncode == 0, done.stderr
    assert "cancelled by sender" in done.stdout
    helped = celery("-A", "tests.apps.shop", "delivery", "wait", "--help")
    assert "3  a delivery is still pending" in helped.stdout


def test_a_dead_delivery_is_shown_with_its_recipient(redis_url: str, shop: Orchestrator) -> None:
    sent = shop.send("billing", Reconcile(failures=99), retry=Retry(max_retries=0))
    with WorkerProcess("tests.apps.shop", redis_url):
        assert isinstance(sent.wait(WAIT_S), Dead)
    shown = json.loads(invoke(shop.app, command, "show", sent.id, "--json").stdout)
    assert (shown["agent"], shown["message"], shown["queue"]) == ("billing", "Reconcile", "billing")
    shop.dead_letters.purge(all=True)
    shown = json.loads(invoke(shop.app, command, "show", sent.id, "--json").stdout)
    assert (shown["status"], shown["agent"], shown["message"]) == ("dead", "", "")


def test_secrets_are_not_shown(redis_url: str, shop: Orchestrator) -> None:
    sent = shop.send("billing", Refund(order_id="o1", card_number="4111222233334444"))
    with WorkerProcess("tests.apps.shop", redis_url):
        eventually(lambda: sent.outcome() is not None, timeout_s=30)
    for arguments in (("show", sent.id), ("show", sent.id, "--json"), ("history", sent.id), ("wait", sent.id)):
        shown = invoke(shop.app, command, *arguments).output
        assert "o1" in shown
        assert "4111222233334444" not in shown


def test_in_eager_mode_deliveries_are_found_by_their_ids(shop: Orchestrator) -> None:
    shop.app.conf.task_always_eager = True
    sent: Delivery = shop.send("billing", Reconcile(failures=1))
    assert shop.delivery(sent.id).wait(timeout_s=1) == Handled(2, 2)
    assert shop.delivery(pickle.loads(pickle.dumps(sent))).status() is Status.HANDLED
    with pytest.raises(UnknownDelivery):
        shop.delivery("nobody")
