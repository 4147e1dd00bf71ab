"""The public API as a user's type checker sees it: ``mypy --strict`` on a file that only imports ``orchestrator``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator

PREAMBLE = """
from collections.abc import Mapping
from datetime import datetime
from typing import Any, assert_never, assert_type

from celery import Celery, chain  # type: ignore[import-untyped]
from pydantic import BaseModel, PositiveInt

from orchestrator import (
    Agent, Ballot, Bulkhead, Canary, Cancelled, Context, Dead, Decision, Deliveries, Delivery, DistributionReport,
    Down, Expand, Expired, Exponential, FallbackDelivery, Fire, Handled, Hierarchy, Majority, Message, Needs,
    Orchestrator, OrchestratorError, Outcome, Report, Retry, Run, SendFailed, Status, Vote, Weighted, Workflow, cron,
    every, handles, votes,
)

app = Celery("shop", broker="redis://127.0.0.1:6379/0")
orchestrator = Orchestrator(app)
"""

#: The README's agent, the sketch in the design, and what each promises.
USER_CODE = """
class Charge(Message):
    order_id: str
    cents: PositiveInt

class Receipt(BaseModel):
    text: str

class Ship(Message):
    order_id: str

class Shipping(Agent):
    name = "shipping"

    @handles(Ship, timeout_s="long")
    def ship(self, message: Ship) -> str:
        return f"shipped {message.order_id}"

class Billing(Agent):
    name = "billing"
    retry = Retry(max_retries=5, backoff=Exponential(initial_s=0.5, cap_s=60))
    bulkhead = Bulkhead(calls=20, wait_s=0.1)

    @handles(Charge)
    def charge(self, message: Charge, context: Context) -> Receipt:
        assert_type(message.cents, int)
        assert_type(context.attempt, int)
        assert_type(context.fence, int)
        assert_type(context.redelivered, bool)
        assert_type(context.metadata, Mapping[str, Any])
        assert_type(context.remaining_s(), float | None)
        context.orchestrator.send("shipping", Ship(order_id="o"), deadline="inherit", deadline_s=5)
        assert_type(context.orchestrator, Orchestrator)
        sent = context.orchestrator.send("shipping", Ship(order_id=message.order_id), countdown_s=5)
        assert_type(sent, Delivery)
        context.send_self(Charge(order_id=message.order_id, cents=1))
        return Receipt(text=f"charged {message.cents}")

    @every(30, overlap="skip")
    def tick(self, fire: Fire, context: Context) -> None:
        assert_type(fire.scheduled_for, datetime | None)
        assert_type(context.scheduled_for, datetime | None)
        context.every("again", Charge(order_id="o", cents=1), every_s=60, misfire="skip")
        assert_type(context.schedules.names(), list[str])

    @cron("0 3 * * *", tz="Europe/Berlin")
    def close(self, fire: Fire) -> None: ...

    def on_down(self, down: Down, context: Context) -> None:
        assert_type(down.reason, str)

class Node(Agent):
    name = "node"

    @votes(Ship, timeout_s=5)
    def vote(self, proposal: Ship, context: Context) -> Vote:
        return Vote.approve() if proposal.order_id else Vote.reject("no order")

    def on_decision(self, decision: Decision, context: Context) -> None:
        assert_type(decision.votes, Mapping[str, Vote])

ballot = orchestrator.propose(Ship(order_id="o1"), voters=[Node, "billing"], rule=Majority(), silent="reject")
assert_type(ballot, Ballot)
assert_type(ballot.wait(10).accepted, bool)
assert_type(ballot.decision(), Decision | None)
assert_type(ballot.cancel("enough"), bool)
orchestrator.propose(Ship(order_id="o1"), ["node"], Weighted({"node": 2}, 0.66), timeout_s=5, id="ship")
assert_type(orchestrator.coordination.ballot("ship").state().approved, int)

assert_type(Billing().charge(Charge(order_id="o", cents=1), Context("i", "a", 1, "w", False)), Receipt)

orchestrator.host(Billing, Shipping)

delivery = orchestrator.send("billing", Charge(order_id="o1", cents=500), on_error="dead_letter", metadata={"job": "1"})
by_class = orchestrator.send(Billing, Charge(order_id="o1", cents=500), retry=Retry(max_retries=3), timeout_s=30)
assert_type(delivery, Delivery)
assert_type(orchestrator.timeouts.override("billing", "long", for_s=60).timeout_s, float)
assert_type(orchestrator.timeouts.remaining_s(), float | None)
assert_type(delivery.status(), Status)
assert_type(delivery.outcome(), Outcome | None)

def told(outcome: Outcome) -> str:
    match outcome:
        case Handled(result=result, attempts=attempts):
            assert_type(attempts, int)
            return str(result)
        case Dead():
            return outcome.reason
        case Expired():
            return "expired"
        case Cancelled():
            return outcome.by
        case _:
            assert_never(outcome)

print(told(delivery.wait(timeout_s=5)))

receipt = orchestrator.call("billing", Charge(order_id="o1", cents=500), timeout_s=5, fallback={"priority": 1})
if isinstance(receipt, FallbackDelivery):
    assert_type(receipt.delivery, Delivery)

many = orchestrator.send_many("billing", [Charge(order_id="o1", cents=n) for n in range(1, 9)])
assert_type(many, Deliveries)

report = orchestrator.broadcast(["billing", Shipping], Ship(order_id="o1"), strategy="all_or_nothing")
assert_type(report, Report)

given = orchestrator.distribute([Charge(order_id="o", cents=n) for n in range(1, 9)], to=["billing", Billing])
assert_type(given, DistributionReport)
assert_type(given.wait(5), dict[int | str, Outcome | None])
named = {"a": Charge(order_id="o", cents=1), "b": Ship(order_id="o")}
orchestrator.distribute(named, to=Needs("ocr", max_load=2), strategy="least_loaded", priority=3)
assert_type(given.counts, dict[str, int])
assert_type(orchestrator.coordination.stats().items, int)
assert_type(orchestrator.discover("ocr")[0].load, float)
team = orchestrator.hierarchy("ops", {"billing": [Shipping]})
assert_type(team, Hierarchy)
assert_type(team.broadcast(Ship(order_id="o"), level="members"), Report)

ref = orchestrator.monitors.monitor("billing", tag="checkout")
assert_type(ref, int)

log = orchestrator.dead_letters
done = log.query(agent="billing", error="TimeoutError").replay(rate_per_s=50, canary=Canary(max_failure_rate=0.1))
assert_type(done.sent, int)
assert_type(log.purge(all=True), int)

@app.task  # type: ignore[untyped-decorator]
def charge_card(order_id: str, cents: int) -> str:
    return f"{order_id}: {cents}"

one = Charge(order_id="o", cents=1)
nightly = orchestrator.schedules.add("nightly", "billing", one, cron="30 2 * * *", jitter_s=60)
orchestrator.schedules.add("card", charge_card.s("o1", 500), every_s=0.5, if_exists="replace")
assert_type(nightly.preview(5), list[datetime])
assert_type(orchestrator.schedules["nightly"].pause("release"), bool)
assert_type(nightly.info().counts.fired, int)
assert_type(nightly.trigger(), str)

# Without types of Celery's, a type checker cannot know which of both it is.
sent: Delivery = orchestrator.send(charge_card.s("o1", 500))
more = Expand([charge_card.s("o1", 1), ("billing", Charge(order_id="o1", cents=500))], timeout_s=60)
run: Run = orchestrator.send(chain(charge_card.s("o1", 500), charge_card.s("o2", 500)), retry=Retry(max_retries=3))
assert_type(Workflow.from_canvas(charge_card.s("o1", 500), timeout_s=5), Workflow)

try:
    again = orchestrator.delivery(delivery.id)
except SendFailed as error:
    assert_type(error.delivery_id, str)
except OrchestratorError:
    raise
"""

#: What a checker must refuse, with the error code at that line. It cannot see that messages are frozen (only pydantic's
#: own plugin knows), nor what is no recipient: Celery has no types, so a signature is anything.
MISTAKES = """
class Charge(Message):
    cents: int

class Billing(Agent):
    name = "billing"

    @handles(Charge)
    def charge(self, message: Charge, context: Context) -> str:
        context.orchestrator.sent("billing", message)  # attr-defined
        context.attempt = 2  # misc
        return 5  # return-value

charge = Charge(cents="many")  # arg-type
unknown = Charge(cents=1, colour="red")  # call-arg
orchestrator.send("billing", {"cents": 1})  # call-overload, arg-type
orchestrator.send("billing", charge, retries=7)  # call-overload, call-arg
orchestrator.call("billing", charge)  # call-overload, call-arg
outcome = orchestrator.send("billing", charge).wait(timeout_s=1)
outcome.result  # union-attr
if isinstance(outcome, Dead):
    outcome.result  # attr-defined
retry = Retry(max_retry=3)  # call-arg
"""


def check(code: str, tmp_path: Path) -> list[str]:
    """What ``mypy --strict`` says of a file of a user's, who has this package installed."""
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed/orchestrator").symlink_to(Path(orchestrator.__file__).parent)
    file = tmp_path / "user_code.py"
    file.write_text(PREAMBLE + code)
    # An installed package's own errors are not shown, and its configuration is not the user's.
    options = ["--strict", "--config-file", os.devnull, "--follow-imports", "silent", "--no-error-summary"]
    cache = ["--cache-dir", str(Path.cwd() / ".mypy_cache/public_api")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *cache, str(file)],
        env={**os.environ, "MYPYPATH": str(tmp_path / "installed")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": note: " not in line]


@pytest.mark.timeout(300)
def test_what_a_user_writes_passes_mypy_strict(tmp_path: Path) -> None:
    assert check(USER_CODE, tmp_path) == []


@pytest.mark.timeout(300)
def test_a_user_s_mistakes_are_found_where_they_are(tmp_path: Path) -> None:
    found: dict[int, str] = {}
    for line in check(MISTAKES, tmp_path):
        found[int(line.split(":")[1])] = line.rpartition("[")[2].rstrip("]")
    expected = {
        number: line.partition("  # ")[2].split(", ")
        for number, line in enumerate((PREAMBLE + MISTAKES).splitlines(), 1)
        if "  # " in line and "type: ignore" not in line
    }
    assert set(found) == set(expected), found
    assert {number: code for number, code in found.items() if code not in expected[number]} == {}


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(orchestrator.__file__).with_name("py.typed").is_file()
