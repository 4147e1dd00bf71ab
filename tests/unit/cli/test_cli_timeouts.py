"""`timeouts`: what applies, overrides, and whether every handler has a timeout."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator import Agent, Down, Message, Orchestrator, handles
from orchestrator.cli.timeouts import timeouts
from tests.apps import agents_app
from tests.support.cluster import NO_REDIS
from tests.support.command_line import invoke


@pytest.fixture
def orchestrator() -> Orchestrator:
    return agents_app.make(
        NO_REDIS, eager=True, timeout_classes={"long": 600}, timeouts={"*.Add": "long"}, timeout_factor=2
    )


def document(orchestrator: Orchestrator, *arguments: str) -> Any:
    result = invoke(orchestrator.app, timeouts, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_what_applies_is_listed_with_its_override(orchestrator: Orchestrator) -> None:
    made = document(orchestrator, "set", "worker.Add", "1m30s", "--for", "1h")
    assert (made["name"], made["timeout_s"], made["until_ms"] - made["at_ms"]) == ("worker.Add", 90, 3_600_000)
    listed = document(orchestrator, "list")
    assert listed["timeout_factor"] == 2
    assert [one["name"] for one in listed["overrides"]] == ["worker.Add"]
    rows = {row["task"]: row for row in listed["timeouts"]}
    add = rows["worker.Add"]
    assert (add["timeout_s"], add["source"], add["class"], add["effective_s"]) == (600, "settings", "long", 90)
    assert add["override"]["name"] == "worker.Add"
    hurried = rows["worker.Hurried"]
    assert (hurried["timeout_s"], hurried["source"], hurried["override"], hurried["effective_s"]) == (
        30,
        "handler",
        None,
        30,
    )
    assert {"worker.on_down", "plain.add"} < set(rows)
    text = invoke(orchestrator.app, timeouts, "list").stdout
    assert "600 s (long)" in text
    assert "90 s (worker.Add)" in text
    assert "multiplied by 2" in text


def test_an_override_is_set_by_class_and_cleared(orchestrator: Orchestrator) -> None:
    result = invoke(orchestrator.app, timeouts, "set", "worker", "long", "--for", "90s")
    assert result.stdout == "worker: 600 s for 1m30s\n"
    assert document(orchestrator, "clear", "worker") == {"cleared": 1}
    assert invoke(orchestrator.app, timeouts, "clear", "--all").stdout == "0 overrides cleared\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("set", "worker.Ad", "60", "--for", "1h"), "did you mean 'worker.Add'?"),
        (("set", "worker.Add", "0", "--for", "1h"), "timeout_s=0.0 is not allowed; allowed: seconds above 0"),
        (("set", "worker.Add", "nan", "--for", "1h"), "timeout_s='nan' is not allowed"),
        (("set", "worker.Add", "lang", "--for", "1h"), "did you mean 'long'?"),
        (("set", "worker.Add", "60", "--for", "31d"), "up to 30 days"),
        (("set", "worker.Add", "60"), "--for"),
        (("clear", "worker.Add"), "none is overridden"),
        (("clear",), "allowed: either NAME or --all"),
        (("clear", "worker.Add", "--all"), "allowed: either NAME or --all"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    orchestrator: Orchestrator, arguments: tuple[str, ...], error: str
) -> None:
    result = invoke(orchestrator.app, timeouts, *arguments)
    assert result.exit_code == 2
    assert error in result.stderr


class Charge(Message):
    cents: int


class Billing(Agent):
    name = "billing"
    deadline_s = 60

    @handles(Charge)
    def charge(self, message: Charge) -> None: ...


class Watching(Agent):
    name = "watching"

    @handles(Charge, timeout_s=5)
    def charge(self, message: Charge) -> None: ...

    def on_down(self, down: Down) -> None:  # type: ignore[override]
        ...


@pytest.mark.parametrize(
    ("agent", "settings", "missing"),
    [
        (Billing, {}, ["billing.Charge"]),
        (Billing, {"default_timeout_s": 9}, []),
        (Billing, {"timeouts": {"*.Charge": 9}}, []),
        (Watching, {}, ["watching.on_down"]),
        (Watching, {"timeouts": {"watching": 9}}, []),
    ],
)
def test_a_handler_without_a_timeout_is_found(agent: type[Agent], settings: dict[str, Any], missing: list[str]) -> None:
    # No Redis answers here, and none is needed.
    orchestrator = agents_app.make("redis://127.0.0.1:1/0", hosts=False, **settings)
    orchestrator.host(agent)
    result = invoke(orchestrator.app, timeouts, "check", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (int(bool(missing)), {"without_timeout": missing})
    result = invoke(orchestrator.app, timeouts, "check")
    assert result.exit_code == int(bool(missing))
    assert all(f"{task}: no timeout" in result.stdout for task in missing)
    orchestrator.app.conf.task_time_limit = 600
    assert invoke(orchestrator.app, timeouts, "check").exit_code == 0


def test_a_deadline_is_no_timeout_and_said_to_be_none() -> None:
    orchestrator = agents_app.make("redis://127.0.0.1:1/0", hosts=False)
    orchestrator.host(Billing)
    said = invoke(orchestrator.app, timeouts, "check").stdout
    assert said.startswith("billing.Charge: no timeout (deadline_s=60 does not bound a replay); allowed: timeout_s")


def test_what_has_run_suggests_timeouts(orchestrator: Orchestrator) -> None:
    assert document(orchestrator, "suggest") == {"suggestions": [], "margin": 2}
    for _ in range(100):
        orchestrator.send("worker", agents_app.Add(a=1, b=2))
    orchestrator.send("worker", agents_app.Pay(order_id="o", cents=5))
    found = {one["task"]: one for one in document(orchestrator, "suggest", "--margin", "3")["suggestions"]}
    assert set(found) == {"worker.Add", "worker.Pay"}
    add = found["worker.Add"]
    assert (add["handled"], add["timed_out"], add["timeout_s"]) == (100, 0, 600)
    # The factor is 2.
    assert add["suggested_s"] == pytest.approx(1.5 * add["p99_s"], rel=0.1)
    assert found["worker.Pay"]["suggested_s"] is None
    text = invoke(orchestrator.app, timeouts, "suggest", "worker").stdout
    assert "fewer than 100 attempts" in text
    assert invoke(orchestrator.app, timeouts, "suggest", "worker.Ad").exit_code == 2
    assert invoke(orchestrator.app, timeouts, "suggest", "--margin", "0.5").exit_code == 2
