"""A canvas as a workflow has the result that Celery gives it."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

import pytest
from celery import Celery, chain, chord, chunks, group
from celery.canvas import _chain, maybe_unroll_group
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from orchestrator import Orchestrator, Workflow
from tests.support.drawn_examples import times_factor


def tag(label: str, *args: Any) -> list[Any]:
    """The label and all arguments, so that a result says what was given to whom and in which order."""
    return [label, *args]


def make(*, supervised: bool) -> Celery:
    """An app in eager mode, with the Orchestrator or as Celery has it."""
    app = Celery("canvas", set_as_current=False, backend="cache+memory://")
    app.conf.task_always_eager = True
    app.task(name="tag", shared=False)(tag)
    if supervised:
        Orchestrator(app)
    return app


CELERY, OURS = make(supervised=False), make(supervised=True)

#: How to build a canvas: a kind and its parts.
Recipe = tuple[Any, ...]

LABELS = st.sampled_from("abcdef")
TASKS = st.tuples(st.sampled_from(["s", "si", "linked"]), LABELS)
ITEMS = st.lists(st.integers(0, 9), max_size=4)
LEAVES = TASKS | st.tuples(st.sampled_from(["map", "starmap"]), LABELS, ITEMS)


def _nested(parts: st.SearchStrategy[Recipe]) -> st.SearchStrategy[Recipe]:
    some = st.lists(parts, min_size=1, max_size=4)
    return (
        st.tuples(st.sampled_from(["chain", "piped"]), some)
        | st.tuples(st.just("group"), st.lists(parts, max_size=4))
        | st.tuples(st.just("chord"), st.lists(parts, max_size=4), parts)
    )


RECIPES = st.recursive(LEAVES, _nested, max_leaves=12)


def build(app: Celery, recipe: Recipe) -> Any:
    """The canvas of a recipe, with an app's tasks."""
    task = app.tasks["tag"]
    match recipe:
        case ["s", label]:
            return task.s(label)
        case ["si", label]:
            return task.si(label)
        case ["linked", label]:
            signature = task.s(label)
            signature.link(task.s("callback"))
            return signature
        case ["map", label, items]:
            return task.map([f"{label}{item}" for item in items])
        case ["starmap", label, items]:
            return task.starmap([[label, item] for item in items])
        case ["chain", parts]:
            return chain(*[build(app, part) for part in parts])
        case ["piped", parts]:
            return reduce(or_, [build(app, part) for part in parts])
        case ["group", parts]:
            return group([build(app, part) for part in parts], app=app)
        case ["chord", header, body]:
            return chord([build(app, part) for part in header], build(app, body), app=app)
    raise AssertionError(recipe)


def as_sent(canvas: Any) -> Any:
    """The canvas as Celery sends it to workers: in a chain a group of one is its member. It is not in eager mode."""
    if isinstance(canvas, _chain):
        tasks = [maybe_unroll_group(task) if isinstance(task, group) else task for task in canvas.tasks]
        tasks[:1] = [maybe_unroll_group(task) if isinstance(task, group) else task for task in tasks[:1]]
        canvas.tasks = [as_sent(task) for task in tasks]
    elif isinstance(canvas, group):
        canvas.tasks = [as_sent(task) for task in canvas.tasks]
    elif isinstance(canvas, chord):
        header = canvas.kwargs["header"]
        members = header.tasks if isinstance(header, group) else header
        canvas.kwargs["header"] = group([as_sent(task) for task in members], app=CELERY)
        canvas.kwargs["body"] = as_sent(canvas.body)
    return canvas


def ours(canvas: Any) -> Any:
    """The result of its run."""
    run = OURS.orchestrator.workflows.start(Workflow.from_canvas(canvas))
    assert run.status().state == "completed"
    return run.result()


TASK = ("s", "a")

#: Groups of one in other canvases, and the results that a worker of Celery's gives them.
GROUPS_OF_ONE: list[tuple[Recipe, Any]] = [
    (("chain", [TASK, ("group", [TASK])]), [["a"], "a"]),
    (("chain", [TASK, ("group", [("group", [TASK])])]), [["a"], "a"]),
    (("chain", [TASK, ("group", [("group", [("group", [TASK])])])]), [[["a"], "a"]]),
    (("chain", [TASK, ("group", [("group", [("group", [("group", [TASK])])])])]), [[["a"], "a"]]),
    (("group", [("chain", [TASK, ("group", [("group", [TASK])])])]), [[["a"], "a"]]),
    (("chain", [TASK, TASK, ("group", [("group", [TASK])])]), [[["a"], "a"], "a"]),
    (("chain", [TASK, *[("group", [("group", [TASK])])] * 2]), [[["a"], "a"], "a"]),
    (("chord", [("chain", [TASK, ("group", [("group", [TASK])])])], TASK), [[[["a"], "a"]], "a"]),
    (("chord", [TASK], ("chain", [TASK, ("group", [("group", [TASK])])])), [[[["a"]], "a"], "a"]),
    (("chord", [("group", [("group", [TASK])])], TASK), [[["a"]], "a"]),
    (("chord", [TASK], ("group", [TASK])), [[[["a"]], "a"]]),
    (("chain", [("group", [TASK])]), ["a"]),
    (("chain", [("group", [("group", [TASK])])]), ["a"]),
    (("chain", [("group", [("group", [("group", [TASK])])])]), [["a"]]),
]


@pytest.mark.parametrize(("recipe", "result"), GROUPS_OF_ONE)
def test_a_group_of_one_has_the_result_that_workers_give_it(recipe: Recipe, result: Any) -> None:
    """Regression: groups of one were taken for their task however deep, and not where nothing else is in the chain."""
    assert ours(build(OURS, recipe)) == result
    assert as_sent(build(CELERY, recipe)).apply_async().get() == result


@example(("chain", [("group", [("s", "a")])]))
@given(RECIPES)
@settings(max_examples=times_factor(100), deadline=None)
def test_any_canvas_has_celerys_result(recipe: Recipe) -> None:
    check_result(recipe)


@pytest.mark.slow
@given(RECIPES)
@settings(max_examples=times_factor(1000), deadline=None)
def test_so_have_many(recipe: Recipe) -> None:
    check_result(recipe)


def check_result(recipe: Recipe) -> None:
    """Ours is Celery's."""
    canvas = build(OURS, recipe)
    flow = Workflow.from_canvas(canvas)
    assume(flow.steps)
    sent = as_sent(build(CELERY, recipe)).apply_async()
    # Celery sends nothing for a chord with a body of empty groups.
    assume(sent is not None)
    assert ours(canvas) == sent.get()


def test_chunks_have_celerys_result() -> None:
    items = [(label, number) for number, label in enumerate("abcde")]
    expected = chunks(CELERY.tasks["tag"].s(), items, 2, app=CELERY).apply_async().get()
    assert ours(chunks(OURS.tasks["tag"].s(), items, 2, app=OURS)) == expected
