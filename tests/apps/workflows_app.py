"""An app with an agent and plain tasks that are steps of workflows."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery import Celery, chain, chord, group
from redis import Redis

from orchestrator import (
    ITEM,
    Agent,
    CancelledStep,
    Context,
    Expand,
    Message,
    Orchestrator,
    Retry,
    Workflow,
    handles,
    load_settings,
)
from orchestrator.workflows.references import Results
from tests.apps import workflow_functions

#: What steps have noted, in eager mode; on Redis it is in the list ``test:noted``.
NOTED: list[str] = []


class List(Message):
    """Asks for the numbers from 0 on."""

    count: int


class Square(Message):
    """Asks for a square."""

    number: int


class Sum(Message):
    """Asks for a sum."""

    numbers: list[int]


class Look(Message):
    """Asks for what a handler sees of a step of its run."""

    step: str


class Hold(Message):
    """Asks for work that lasts until it is cancelled."""

    what: str


class Split(Message):
    """Asks for squares as steps of their own; ``how`` says as which."""

    numbers: list[int]
    how: str = "pairs"


class Undo(Message):
    """Undoes a step."""

    what: str


def _note(what: str) -> None:
    if "ORCHESTRATOR_BROKER_URL" not in os.environ:
        NOTED.append(what)
        return
    with _redis() as client:
        client.rpush("test:noted", what)


class Counter(Agent):
    """Counts."""

    name = "counter"
    retry = Retry(max_retries=0)

    @handles(List)
    def list_numbers(self, message: List) -> dict[str, Any]:
        """The numbers, as an object."""
        return {"numbers": list(range(message.count))}

    @handles(Square)
    def square(self, message: Square) -> int:
        """The square; 13 has none."""
        if message.number == 13:
            raise ValueError("13 brings bad luck")
        return message.number**2

    @handles(Sum)
    def sum_up(self, message: Sum, context: Context) -> int:
        """The sum."""
        return sum(message.numbers)

    @handles(Look)
    def look(self, message: Look, context: Context) -> list[Any]:
        """Where it is, and the result of a step."""
        step = context.workflow
        assert step is not None
        return [step.id, step.step, step.item, step.results[message.step], step.results.get("nothing", "none")]

    @handles(Split)
    def split(self, message: Split, context: Context) -> Any:
        """A step for each number, or what cannot be steps."""
        _note(f"split {len(message.numbers)}")
        return expansions(context)[message.how](message.numbers)

    @handles(Hold)
    def hold(self, message: Hold, context: Context) -> str:
        """Notes that it has begun, and that it was cancelled."""
        _note(f"begun {message.what}")
        return _until_cancelled(lambda: context.cancelled)

    def on_cancelled(self, cancelled: CancelledStep, context: Context) -> None:
        """Notes it."""
        _note(f"on_cancelled {cancelled.message} {cancelled.workflow} {cancelled.step} {cancelled.because}".strip())

    @handles(Undo)
    def undo(self, message: Undo) -> None:
        """Notes what it undoes."""
        _note(f"undo {message.what}")


def expansions(context: Context) -> dict[str, Callable[[list[int]], Any]]:
    """What :meth:`Counter.split` returns, by name."""
    tasks = context.orchestrator.app.tasks

    def graph(numbers: list[int]) -> Expand:
        flow = Workflow("squares")
        squares = [flow.step(f"square-{n}", Square(number=n), to="counter", undo=Undo(what=f"{n}")) for n in numbers]
        flow.step("sum", Sum, fields={"numbers": Results(tuple(one.name for one in squares))}, to="counter")
        return Expand(flow)

    def nested(numbers: list[int]) -> Expand:
        rest = [("counter", Split(numbers=numbers[1:], how="nested"))] if len(numbers) > 1 else []
        return Expand([("counter", Square(number=numbers[0])), *rest])

    def listing(numbers: list[int]) -> Expand:
        flow = Workflow("listing")
        numbers_of = flow.step("list", List(count=len(numbers)), to="counter")
        flow.map("square", Square, over=numbers_of.result["numbers"], fields={"number": ITEM}, to="counter")
        return Expand(flow)

    def bad(numbers: list[int]) -> Expand:
        flow = Workflow("bad")
        flow.step("a", Square(number=1), to="nobody")
        flow.step("b", Square, fields={"nummer": 1}, to="counter")
        return Expand(flow)

    return {
        "pairs": lambda numbers: Expand([("counter", Square(number=n)) for n in numbers], retry=Retry(max_retries=0)),
        "graph": graph,
        "nested": nested,
        "map": listing,
        "bad": bad,
        "wrong": lambda numbers: Expand([*numbers]),
        "many": lambda numbers: Expand([tasks["plain.add"].s(1)] * 100_000),
        "large": lambda numbers: Expand([tasks["plain.text"].s("x" * 20_000_000)]),
        "waits": waits,
    }


def waits(numbers: list[int]) -> Expand:
    """A wait for an event, and a square."""
    flow = Workflow("waits")
    event = flow.wait("event", event="go")
    flow.step("square", Square(number=numbers[0]), to="counter", after=event)
    return Expand(flow)


def _redis() -> Redis:
    return Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"], socket_timeout=None)


def note(what: str, *_: Any) -> str:
    """Notes something, and returns it."""
    _note(what)
    return what


def add(*numbers: int) -> int:
    """The sum."""
    return sum(numbers)


def total(numbers: list[int]) -> int:
    """The sum of a list, as a chord's body takes it."""
    return sum(numbers)


def text(length: int) -> str:
    """A text of that many characters."""
    return "x" * length


def fail(*_: Any) -> None:
    """Always fails."""
    _note("fail")
    raise ValueError("it fails")


def needs(key: str) -> str:
    """Fails as long as a key is not there; eager mode has no keys."""
    if "ORCHESTRATOR_BROKER_URL" in os.environ and not _redis().exists(key):
        raise ValueError(f"{key} is not there")
    return key


def hold(key: str) -> str:
    """Waits until the test lets it go."""
    with _redis() as client:
        client.rpush("test:noted", f"begun {key}")
        client.blpop([f"test:go:{key}"], timeout=30)
    return key


def hold_and_count(key: str) -> int:
    """Waits until the test lets it go, and returns how often it has begun."""
    with _redis() as client:
        begun = int(client.incr(f"test:ran:{key}"))
    hold(key)
    return begun


def replaced(task: Any, how: str, *numbers: int) -> Any:
    """A task that another signature replaces."""
    tasks = task.app.tasks
    add, total, note_all = tasks["plain.add"], tasks["plain.total"], tasks["plain.note_all"]
    parts = [add.s(number) for number in numbers]
    signatures: dict[str, Callable[[], Any]] = {
        "task": lambda: add.s(*numbers),
        "group": lambda: group(parts),
        "chord": lambda: chord(parts, total.s()),
        "chain": lambda: chain(add.s(numbers[0]), add.s(1)),
        "chain of a group": lambda: chain(add.s(numbers[0]), group(parts)),
        "fails": lambda: tasks["plain.fail"].s(),
        "again": lambda: task.s("chord", *numbers),
        "empty": lambda: group([]),
        "body": lambda: note_all.s(list(numbers)),
    }
    _note(f"replaced {how}")
    raise task.replace(signatures[how]())


def note_all(values: Any) -> Any:
    """Notes that it has run, and returns what it was given."""
    _note("body")
    return values


def failed(request: Any, error: Exception, traceback: str | None) -> None:
    """An errback as Celery has had them since 4.0: notes what it is given."""
    _note(f"{request.task} {request.id.partition('.')[2]} {type(error).__name__} {error.outcome.error}")  # type: ignore[attr-defined]


def failed_id(task_id: str) -> None:
    """An errback that takes the id alone."""
    _note(f"failed {task_id.partition('.')[2]}")


def _until_cancelled(is_cancelled: Callable[[], bool]) -> str:
    with _redis() as client:
        for _ in range(300):
            if is_cancelled():
                _note("cancelled")
                return "cleaned up"
            # Nobody pushes there: it passes a tenth of a second.
            client.blpop(["test:nothing"], timeout=0.1)
    return "never cancelled"


def until_cancelled(task: Any) -> str:
    """The same in a plain task."""
    step = task.app.orchestrator.workflows.current_step()
    _note("begun task")
    return _until_cancelled(lambda: step.cancelled)


def where(task: Any, step: str) -> list[Any] | None:
    """The same for a plain task; nothing outside of a workflow."""
    current = task.app.orchestrator.workflows.current_step()
    return None if current is None else [current.id, current.step, current.item, current.results[step]]


def make(broker_url: str | None = None, *, eager: bool = False, **settings: Any) -> Orchestrator:
    """An app of its own; its Celery app is ``.app``."""
    app = Celery("workflows", set_as_current=False)
    if broker_url is not None:
        settings["broker_url"] = broker_url
        app.conf.broker_url = broker_url
    app.conf.task_always_eager = eager
    orchestrator = Orchestrator(app, load_settings(**settings))
    for function in (note, note_all, hold_and_count, add, total, text, fail, needs, hold, failed, failed_id):
        app.task(name=f"plain.{function.__name__}", shared=False)(function)
    app.task(name="plain.where", shared=False, bind=True)(where)
    app.task(name="plain.replaced", shared=False, bind=True)(replaced)
    app.task(name="plain.until_cancelled", shared=False, bind=True)(until_cancelled)
    orchestrator.host(Counter)
    workflow_functions.declare(orchestrator)
    return orchestrator


orchestrator = make(os.environ.get("ORCHESTRATOR_BROKER_URL"))
app = orchestrator.app
