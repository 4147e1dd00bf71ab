"""`dead-letters replay` of steps whose run was compensated: what was refused is counted, and says why."""

from __future__ import annotations

import json

import pytest
from celery import Celery

from orchestrator import Agent, Canary, Message, Orchestrator, Retry, Workflow, handles
from orchestrator.cli.dead_letters.group import dead_letters
from orchestrator.maintenance.dead_letters import RetentionPolicy, run_maintenance
from tests.support.command_line import invoke


class Verdict(Message):
    about: str = "order"


class Hearing(Message):
    about: str = "order"


class Court(Agent):
    name = "court"
    retry = Retry(max_retries=0)

    @handles(Hearing)
    def hear(self, message: Hearing) -> None:
        """Succeed."""

    @handles(Verdict)
    def decide(self, message: Verdict) -> None:
        """Always fail."""
        raise ValueError(message.about)


@pytest.fixture
def court() -> Orchestrator:
    """Two dead letters of steps whose runs were compensated, and one of a plain send."""
    app = Celery("court", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    orchestrator = Orchestrator(app)
    orchestrator.host(Court)
    for _ in range(2):
        flow = Workflow("trial", on_failure="compensate")
        heard = flow.step("hearing", Hearing(), to="court", undo=Hearing())
        flow.step("verdict", Verdict(), to="court", after=heard)
        assert orchestrator.workflows.start(flow).status().state == "compensated"
    orchestrator.send("court", Verdict())
    return orchestrator


WHY = (
    "a dead letter in 'court' is a step of a run that is compensated, or was; "
    "allowed: letters of its compensations, and of other runs"
)


def test_a_bulk_replay_counts_what_it_was_refused_by_the_reason(court: Orchestrator) -> None:
    done = court.dead_letters.query(message="Verdict").replay()
    assert (done.sent, dict(done.refused), done.skipped, done.stopped) == (1, {WHY: 2}, 0, "")


def test_the_command_says_what_was_refused_and_exits_with_1(court: Orchestrator) -> None:
    result = invoke(court.app, dead_letters, "replay", "--message", "Verdict")
    assert "1 dead letter replayed" in result.stdout
    assert (result.exit_code, result.stderr) == (1, f"Error: 2 dead letters refused: {WHY}\n")


def test_the_refused_are_in_the_document(court: Orchestrator) -> None:
    result = invoke(court.app, dead_letters, "replay", "--message", "Verdict", "--json")
    document = json.loads(result.stdout)
    assert (document["sent"], document["refused"], document["skipped"]) == (1, [{"count": 2, "why": WHY}], 0)
    assert result.exit_code == 1


def test_a_dry_run_says_that_it_does_not_know_what_is_refused(court: Orchestrator) -> None:
    result = invoke(court.app, dead_letters, "replay", "--message", "Verdict", "--dry-run")
    assert (result.exit_code, result.stdout) == (
        0,
        "3 dead letters would be replayed, except those that their runs or mailboxes refuse\n",
    )
    letter_id = court.dead_letters.list()[0].id
    result = invoke(court.app, dead_letters, "replay", letter_id, "--dry-run")
    assert result.stdout == f"{letter_id} would be replayed, unless its run or mailbox refuses it\n"


def test_an_automatic_replay_of_a_compensated_step_is_given_up(court: Orchestrator) -> None:
    """Regression: it was postponed, and warned of, every minute until the letter expired."""
    log = court.dead_letters
    run_maintenance(log, RetentionPolicy(auto_replays=5, first_replay_s=0))
    assert log.store.due(100) == []
    assert len(log.list()) == 3


def test_a_refused_letter_is_no_canary(court: Orchestrator) -> None:
    """Regression: the first letters were refused, so the next ten were sent without one that had gone before."""
    for _ in range(4):
        court.send("court", Verdict())
    done = court.dead_letters.query(message="Verdict").replay(canary=Canary(max_failure_rate=0))
    assert (done.sent, done.dead, done.stopped) == (1, 1, "1 of 1 have died again; at most 0% may")
    assert sum(done.refused.values()) == 2
