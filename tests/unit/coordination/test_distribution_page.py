"""The examples of docs/distribution.md really run, in eager mode."""

from __future__ import annotations

import pytest

from orchestrator import Agent, Message, Needs, handles
from tests.support.living_agents import close, make
from tests.support.worker_process import ROOT

PAGE = (ROOT / "docs" / "distribution.md").read_text(encoding="utf-8")
BLOCKS = [part.split("```")[0] for part in PAGE.split("```python\n")[1:]]


class Scan(Message):
    page: int


class Stop(Message): ...


class Reader(Agent):
    name = "reader-a"
    capabilities = frozenset({"ocr"})

    @handles(Scan)
    def scan(self, message: Scan) -> int:
        return message.page

    @handles(Stop)
    def stop(self, message: Stop) -> None: ...


NAMES = ("reader-b", "chief", "lead-1", "lead-2", "w1", "w2", "w3")
AGENTS = [type(f"Reader{n}", (Reader,), {"name": name}) for n, name in enumerate(NAMES)]


def test_the_page_begins_with_what_a_failover_can_do() -> None:
    first = PAGE.split("\n## ")[0]
    assert "failover" in first
    assert "fencing token" in first
    assert "min-replicas-to-write" in first


@pytest.mark.parametrize("block", BLOCKS)
def test_an_example_runs(block: str) -> None:
    orchestrator = make("redis://127.0.0.1:1/0", Reader, *AGENTS, eager=True)
    names = {"orchestrator": orchestrator, "Scan": Scan, "Stop": Stop, "Needs": Needs}
    exec(block.replace("10_000", "100"), names)
    close(orchestrator)
