"""The examples of docs/coordination.md really run, in eager mode."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orchestrator import Agent, Context, Message, Term, handles
from orchestrator.agents.declaration import inspect_agent
from tests.support.coordination_under_test import in_session, make
from tests.support.eventually import eventually
from tests.support.worker_process import ROOT


class Import(Message): ...


class CloseMonth(Message):
    month: str


PAGE = (ROOT / "docs" / "coordination.md").read_text(encoding="utf-8")
BLOCKS = [part.split("```")[0] for part in PAGE.split("```python\n")[1:]]


def test_the_page_begins_with_what_a_failover_can_do_and_what_a_fence_is_for() -> None:
    first = PAGE.split("\n## ")[0]
    assert "failover" in first
    assert "fencing token" in first
    assert "min-replicas-to-write" in first


@pytest.mark.parametrize("block", [block for block in BLOCKS if "with " in block and not block.startswith("def ")])
def test_an_example_runs(block: str) -> None:
    orchestrator = make("redis://127.0.0.1:1/0", eager=True)
    called: list[tuple[str, Any]] = []

    def recorded(name: str) -> Callable[..., None]:
        return lambda *args, **fields: called.append((name, (args, fields)))

    names = {name: recorded(name) for name in ("close_month", "schedule", "call_the_api", "train_on")}
    with orchestrator.monitors.session():
        exec(block, {"orchestrator": orchestrator, **names})
    assert called
    orchestrator.app.close()


def test_the_singleton_of_the_page_can_be_hosted() -> None:
    (block,) = [block for block in BLOCKS if block.startswith("class ")]
    names: dict[str, Any] = {"Agent": Agent, "Context": Context, "Import": Import, "Term": Term, "handles": handles}
    exec(block, names)
    assert inspect_agent(names["Importer"]).election == "singleton:importer"


def test_a_handler_holds_a_lease() -> None:
    orchestrator = make("redis://127.0.0.1:1/0", eager=True)
    (block,) = [block for block in BLOCKS if block.startswith("def close")]
    closed: list[tuple[str, int]] = []
    page: dict[str, Any] = {"CloseMonth": CloseMonth, "Context": Context}
    page["close_month"] = lambda month, fence: closed.append((month, fence))
    exec(block, page)
    orchestrator.host(type("Accounts", (Agent,), {"name": "accounts", "close": handles(CloseMonth)(page["close"])}))
    orchestrator.send("accounts", CloseMonth(month="2026-10"))
    [state] = orchestrator.coordination.leases()
    assert closed == [("2026-10", state.fence)]
    assert not state.holders
    orchestrator.app.close()


def test_a_follower_sees_each_term_and_its_end() -> None:
    orchestrator = make("redis://127.0.0.1:1/0", eager=True)
    (recipe,) = [block for block in BLOCKS if block.startswith("def follow")]
    page: dict[str, Any] = {}
    exec(recipe, page)
    election, seen, stopped = orchestrator.election("scheduler"), list[Term](), threading.Event()
    thread = threading.Thread(target=page["follow"], args=(election, seen.append, stopped))
    thread.start()
    try:
        for _ in range(2):
            in_session(orchestrator, lambda: election.campaign().resign()).result(10)
        eventually(lambda: len(seen) == 4)
    finally:
        stopped.set()
        thread.join(10)
    assert [term.reason for term in seen] == ["", "resigned", "", "resigned"]
    assert seen[0].number == seen[1].number < seen[2].number == seen[3].number
    orchestrator.app.close()


def test_a_new_leader_is_waited_for() -> None:
    orchestrator = make("redis://127.0.0.1:1/0", eager=True)
    (block,) = [block for block in BLOCKS if block.startswith("led = ")]
    election, has_looked = orchestrator.election("scheduler"), threading.Event()

    class Watched:
        observe = staticmethod(election.observe)

        def leader(self) -> Term | None:
            term = election.leader()
            has_looked.set()
            return term

    page: dict[str, Any] = {"election": Watched()}
    watcher = threading.Thread(target=exec, args=(block, page))
    with orchestrator.monitors.session():
        with election.campaign():
            watcher.start()
            assert has_looked.wait(10)
        with election.campaign():
            watcher.join(10)
    assert (page["ended"].reason, page["ended"].number) == ("resigned", page["led"].number)
    assert (page["new"].ended, page["new"].number > page["led"].number) == (False, True)
    orchestrator.app.close()


def test_the_parties_of_the_page_meet() -> None:
    orchestrator = make("redis://127.0.0.1:1/0", eager=True)
    (block,) = [block for block in BLOCKS if block.startswith("def run_phase")]
    page: dict[str, Any] = {}
    exec(block.replace("parties=5", "parties=2"), page)
    assert orchestrator.coordination.barriers() == []
    with ThreadPoolExecutor(2) as threads:
        passed = [threads.submit(page["run_phase"], orchestrator, party) for party in ("a", "b")]
        assert passed[0].result(30) == passed[1].result(30)
    orchestrator.app.close()


class Load(Message):
    part: int


class Index(Message):
    part: int


class Discard(Message):
    part: int


def test_a_handler_leaves_a_message_at_a_barrier() -> None:
    orchestrator = make("redis://127.0.0.1:1/0", eager=True)
    (block,) = [block for block in BLOCKS if block.startswith("def load")]
    done: list[tuple[str, int]] = []
    page: dict[str, Any] = {"Load": Load, "Index": Index, "Discard": Discard, "Context": Context}
    page["load_part"] = lambda part: done.append(("load", part))
    exec(block, page)

    @handles(Index)
    def index(self: Any, message: Index) -> None:
        done.append(("index", message.part))

    @handles(Discard)
    def discard(self: Any, message: Discard) -> None:
        done.append(("discard", message.part))

    methods = {"load": handles(Load)(page["load"]), "index": index, "discard": discard}
    orchestrator.host(type("Loader", (Agent,), {"name": "loader", **methods}))
    for part in (1, 2):
        orchestrator.send("loader", Load(part=part))
    assert done[:2] == [("load", 1), ("load", 2)]
    assert sorted(done[2:]) == [("index", 1), ("index", 2)]
    orchestrator.app.close()
