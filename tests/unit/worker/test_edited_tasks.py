"""The arguments of a plain task's letter are changed by the names of its parameters, and checked by its signature."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from orchestrator import Orchestrator
from orchestrator.core.errors import CallerError, InvalidExport, InvalidMessage
from orchestrator.deadletters.letter import DeadLetter


def pay(task: Any, order: str, /, cents: int, currency: str = "EUR", *notes: str, urgent: bool = False) -> None:
    raise LookupError("no such order")


def free(first: int = 0, **rest: Any) -> None:
    raise LookupError("no")


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    app = Celery("edits", broker="redis://nowhere", set_as_current=False)
    app.conf.task_always_eager = True
    orchestrator = Orchestrator(app)
    app.task(pay, name="pay", bind=True, shared=False)
    app.task(free, name="free", shared=False)
    yield orchestrator
    app.close()


def letter_of(orchestrator: Orchestrator, task: str, *args: Any, **kwargs: Any) -> DeadLetter:
    orchestrator.send(orchestrator.app.signature(task, args, kwargs), retry=None, on_error="dead_letter", timeout_s=5)
    return orchestrator.dead_letters.list(1)[0]


def edited(orchestrator: Orchestrator, letter: DeadLetter, **changes: Any) -> Any:
    return orchestrator.dead_letters.edit(letter.id, changes).after


def test_a_positional_argument_is_changed_where_it_is(orchestrator: Orchestrator) -> None:
    """Regression: a keyword was added beside it, and the task was given both."""
    letter = letter_of(orchestrator, "pay", "o1", 5)
    assert edited(orchestrator, letter, order="o2", cents=6) == [["o2", 6], {}]
    assert edited(orchestrator, letter, currency="USD") == [["o1", 5], {"currency": "USD"}]
    assert edited(orchestrator, letter, urgent=True) == [["o1", 5], {"urgent": True}]
    diff = orchestrator.dead_letters.edit(letter.id, {"cents": 6}).diff()
    assert [line.strip() for line in diff.splitlines() if line[0] in "+-" and line[1] == " "] == ["-    5", "+    6"]


def test_more_positional_arguments_are_named_together(orchestrator: Orchestrator) -> None:
    letter = letter_of(orchestrator, "pay", "o1", 5, "EUR", "a", "b")
    assert edited(orchestrator, letter, notes=["c"], currency="USD") == [["o1", 5, "USD", "c"], {}]
    with pytest.raises(InvalidMessage, match=r"notes.*a list"):
        edited(orchestrator, letter, notes="c")


def test_an_unknown_name_is_refused_with_what_is_allowed(orchestrator: Orchestrator) -> None:
    letter = letter_of(orchestrator, "pay", "o1", 5)
    with pytest.raises(
        InvalidMessage, match=r"'colour' is no argument.*allowed: order, cents, currency, notes, urgent"
    ):
        edited(orchestrator, letter, colour="red")
    with pytest.raises(CallerError):
        edited(orchestrator, letter)
    anything = letter_of(orchestrator, "free", 1)
    assert edited(orchestrator, anything, colour="red") == [[1], {"colour": "red"}]


def test_what_is_replayed_fits(orchestrator: Orchestrator) -> None:
    letter = letter_of(orchestrator, "free", 1)
    orchestrator.dead_letters.edit_and_replay(letter.id, {"first": 2})
    assert orchestrator.dead_letters.list(1)[0].body() == [[2], {}]


def test_of_a_task_that_is_not_known_here_only_what_is_there_is_changed(orchestrator: Orchestrator) -> None:
    letter_of(orchestrator, "free", 1, a=2)
    lines = [
        line.replace('\\"task\\": \\"free\\"', '\\"task\\": \\"gone\\"')
        for line in orchestrator.dead_letters.query().export()
    ]
    orchestrator.dead_letters.purge(all=True)
    orchestrator.dead_letters.import_lines(lines)
    (letter,) = orchestrator.dead_letters.list(2)
    assert letter.task == "gone"
    assert edited(orchestrator, letter, a=3) == [[1], {"a": 3}]
    with pytest.raises(InvalidMessage, match=r"not registered here.*allowed: a"):
        edited(orchestrator, letter, first=3)


def test_an_import_whose_arguments_do_not_fit_is_refused(orchestrator: Orchestrator) -> None:
    """Regression: it was taken in, sent again and retried."""
    letter_of(orchestrator, "pay", "o1", 5)
    (line,) = orchestrator.dead_letters.query().export()
    orchestrator.app.tasks["pay"].run = lambda order: None
    fields = json.loads(line)
    with pytest.raises(InvalidExport, match=r"line 1.*too many positional arguments"):
        orchestrator.dead_letters.import_lines([json.dumps({**fields, "id": "1-1"})])
    misfit = {**fields, "id": "1-2", "letter": fields["letter"].replace("LookupError", "TypeError")}
    assert orchestrator.dead_letters.import_lines([json.dumps(misfit)]) == (1, 0)
