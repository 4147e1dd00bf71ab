"""The examples of docs/workflow-functions.md really run."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from tests.support.worker_process import ROOT

PAGE = (ROOT / "docs" / "workflow-functions.md").read_text(encoding="utf-8")
BOOKS, STARTED = [part.split("```")[0] for part in PAGE.split("```python\n")[1:]]

_NUMBERS = count()


def _books() -> dict[str, Any]:
    # Each its own, because Celery knows shared tasks by their names.
    said: dict[str, Any] = {"__name__": f"function_books{next(_NUMBERS)}"}
    exec(BOOKS, said)
    said["app"].conf.task_always_eager = True
    return said


def test_a_book_is_published() -> None:
    said = _books()
    exec(STARTED, said)
    run = said["run"]
    assert run.status().state == "completed"
    assert run.result() == "3 pages printed"
    assert "publish/sleep-5" in {step.name for step in run.steps()}


def test_it_is_explained_as_the_page_says() -> None:
    said = _books()
    run = said["orchestrator"].workflows.start(said["publish"], "b1")
    [line, _] = run.explain()[1:]
    assert f'"{line}"' in PAGE


@pytest.mark.parametrize("answer", [True, False])
def test_the_function_is_called_with_a_stand_in(answer: bool) -> None:
    said = _books()

    class Fake:
        def call(self, *call: Any, **options: Any) -> Any:
            return {"pages": [1, 2, 3]} if call[0] == "press" else call[0].args[0]

        def gather(self, calls: list[Any]) -> list[Any]:
            return calls

        def sleep(self, seconds: float) -> None: ...

        def wait_event(self, event: str, *, timeout_s: float) -> Any:
            return {"yes": answer}

    assert said["publish"](Fake(), "b1") == ("3 pages printed" if answer else "refused")
