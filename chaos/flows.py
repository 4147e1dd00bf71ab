"""The workflows of the load: a mix of shapes, and what is done to them, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from celery import Celery, chord

from chaos.functions import ERRAND
from chaos.load import HOPELESS
from chaos.placed import LIFT, WELD, Haul
from chaos.steps import GATHER, PART, STEPS, Item, Revert, Stage, Total
from orchestrator import ITEM, Workflow

#: Parts of a chord.
PARTS = 10

_KINDS = {"chord": 50, "diamond": 17, "map": 11, "function": 8, "saga": 7, "wait": 7, "placed": 8}

#: The event for which a workflow of the kind ``wait`` waits.
EVENT = "approved"


@dataclass(frozen=True, slots=True)
class Flow:
    """One run to start, and the times in seconds after its start at which something is done to it."""

    kind: str
    workflow: Workflow
    pause_s: float | None = None
    resume_s: float | None = None
    cancel_s: float | None = None
    compensate: bool = False
    post_s: float | None = None


def flows(app: Celery, seed: int) -> Iterator[Flow]:
    """An endless series of workflows. ``app`` has the tasks of :mod:`chaos.steps`."""
    rng = random.Random(f"workflows {seed}")
    while True:
        kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
        workflow = _BUILD[kind](app, rng)
        pause_s = resume_s = cancel_s = None
        if rng.random() < 0.15:
            pause_s = rng.uniform(0, 0.3)
            resume_s = pause_s + rng.uniform(0.2, 2.0)
        if rng.random() < 0.12:
            # Of a paused run before, while and after it is paused.
            cancel_s = rng.uniform(0, resume_s + 0.5 if resume_s else 0.3)
        post_s = rng.uniform(0, 1) if kind == "wait" else None
        yield Flow(kind, workflow, pause_s, resume_s, cancel_s, rng.random() < 0.5, post_s)


def chords(app: Celery, count: int) -> Iterator[Flow]:
    """That many chords of ten, to which nothing is done."""
    for _ in range(count):
        yield Flow("chord", _chord(app, random.Random()))


def _chord(app: Celery, rng: random.Random) -> Workflow:
    parts = [app.signature(PART, args=(number,), queue=STEPS) for number in range(PARTS)]
    return Workflow.from_canvas(chord(parts, app.signature(GATHER, queue=STEPS), app=app), "chord")


def _diamond(app: Celery, rng: random.Random) -> Workflow:
    flow = Workflow("diamond")
    top = flow.step("top", _stage(rng), to=STEPS, undo=Revert())
    left = flow.step("left", _stage(rng), to=STEPS, after=top, undo=Revert())
    right = flow.step("right", _stage(rng), to=STEPS, after=top)
    bottom = flow.step("bottom", _stage(rng), to=STEPS, after=[left, right], undo=Revert())
    flow.step("last", _stage(rng), to=STEPS, after=bottom)
    return flow


def _map(app: Celery, rng: random.Random) -> Workflow:
    flow = Workflow("map")
    numbers = flow.step("numbers", Stage(numbers=rng.choice((0, 1, 5, 12))), to=STEPS)
    items = flow.map(
        "item",
        Item,
        over=numbers.result["numbers"],
        fields={"number": ITEM, "nap_ms": rng.choice((0, 10))},
        to=STEPS,
        limit=rng.choice((None, 3)),
        undo=Revert(),
    )
    flow.step("total", Total, fields={"numbers": items.result}, to=STEPS)
    return flow


def _saga(app: Celery, rng: random.Random) -> Workflow:
    flow = Workflow("saga", on_failure="compensate")
    first = flow.step("first", _stage(rng), to=STEPS, undo=Revert(nap_ms=rng.choice((0, 20))))
    second = flow.step("second", _stage(rng), to=STEPS, after=first, undo=Revert())
    third = flow.step("third", _stage(rng), to=STEPS, after=second, undo=Revert())
    flow.step("fails", Stage(failures=HOPELESS), to=STEPS, after=third)
    return flow


def _wait(app: Celery, rng: random.Random) -> Workflow:
    flow = Workflow("wait")
    first = flow.step("first", _stage(rng), to=STEPS)
    approval = flow.wait("approval", event=EVENT, timeout_s=600, after=first)
    pause = flow.wait("pause", seconds=rng.uniform(0.05, 1.5), after=approval)
    flow.step("last", _stage(rng), to=STEPS, after=pause)
    return flow


def _placed(app: Celery, rng: random.Random) -> Workflow:
    flow = Workflow("placed")
    first = flow.step("first", _stage(rng), to=STEPS)
    lifted = flow.step("lifted", Haul(nap_ms=rng.choice((0, 10, 50))), needs={LIFT}, after=first, undo=Revert())
    welded = flow.step("welded", Haul(nap_ms=rng.choice((0, 10))), needs={LIFT, WELD}, after=lifted, undo=Revert())
    flow.step("last", _stage(rng), to=STEPS, after=welded)
    return flow


def _function(app: Celery, rng: random.Random) -> Workflow:
    return app.orchestrator.runtime.functions[ERRAND].workflow((rng.choice((0, 1, 4)), rng.choice((0, 0, 1, 2))), {})  # type: ignore[no-any-return]


def _stage(rng: random.Random) -> Stage:
    return Stage(nap_ms=rng.choice((0, 0, 0, 10, 50)), failures=rng.choice((0, 0, 0, 0, 1, 2)))


_BUILD = {
    "chord": _chord,
    "diamond": _diamond,
    "map": _map,
    "saga": _saga,
    "wait": _wait,
    "placed": _placed,
    "function": _function,
}
