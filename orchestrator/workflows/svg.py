"""A run's graph as an SVG picture: steps in layers from left to right, each one right of all that it depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

from orchestrator.core.checks.text import printable
from orchestrator.core.workflows.plan import When
from orchestrator.workflows.graph import COLOURS, label_of
from orchestrator.workflows.records import StepState

#: Sizes in pixels.
_WIDTH: Final = 190
_HEIGHT: Final = 44
_GAP_X: Final = 70
_GAP_Y: Final = 18
_MARGIN: Final = 24
_TITLE: Final = 34

#: Characters of a name that a box has room for.
_NAME_LENGTH: Final = 24

#: Rounds in which each layer is put into the order of its neighbours.
_ROUNDS: Final = 4


def layers_of(numbers: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The steps in layers: one right of all that it depends on, and near to what it is connected with."""
    before: dict[str, list[str]] = {number: [] for number in numbers}
    after: dict[str, list[str]] = {number: [] for number in numbers}
    for first, then in edges:
        after[first].append(then)
        before[then].append(first)
    depth = dict.fromkeys(numbers, 0)
    waiting = {number: len(before[number]) for number in numbers}
    free = [number for number in numbers if not waiting[number]]
    for number in free:
        for dependent in after[number]:
            depth[dependent] = max(depth[dependent], depth[number] + 1)
            waiting[dependent] -= 1
            if not waiting[dependent]:
                free.append(dependent)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for number in numbers:
        layers[depth[number]].append(number)
    places = {number: place / len(layer) for layer in layers for place, number in enumerate(layer)}
    for turn in range(_ROUNDS):
        neighbours, ordered = (before, layers[1:]) if turn % 2 == 0 else (after, layers[-2::-1])
        for layer in ordered:
            _order(layer, neighbours, places)
    return layers


def _order(layer: list[str], neighbours: Mapping[str, Sequence[str]], places: dict[str, float]) -> None:
    """Put a layer into the order of the mean places of its neighbours; a step without any keeps its place."""
    mean = {
        number: sum(places[one] for one in neighbours[number]) / len(neighbours[number])
        if neighbours[number]
        else places[number]
        for number in layer
    }
    layer.sort(key=mean.__getitem__)
    places.update({number: place / len(layer) for place, number in enumerate(layer)})


def svg(graph: Mapping[str, Any]) -> str:
    """A graph as the text of an SVG file."""
    steps: dict[str, dict[str, Any]] = {step["number"]: step for step in graph["steps"]}
    edges = [(edge["from"], edge["to"]) for edge in graph["edges"]]
    layers = layers_of(list(steps), edges)
    height = max((len(layer) for layer in layers), default=0) * (_HEIGHT + _GAP_Y) - _GAP_Y
    places: dict[str, tuple[float, float]] = {}
    for at, layer in enumerate(layers):
        top = _MARGIN + _TITLE + (height - len(layer) * (_HEIGHT + _GAP_Y) + _GAP_Y) / 2
        for place, number in enumerate(layer):
            places[number] = _MARGIN + at * (_WIDTH + _GAP_X), top + place * (_HEIGHT + _GAP_Y)
    size = (
        2 * _MARGIN + max(1, len(layers)) * (_WIDTH + _GAP_X) - _GAP_X,
        2 * _MARGIN + _TITLE + max(0, height),
    )
    return "\n".join(_elements(graph, steps, edges, places, size)) + "\n"


def _elements(
    graph: Mapping[str, Any],
    steps: Mapping[str, dict[str, Any]],
    edges: Sequence[tuple[str, str]],
    places: Mapping[str, tuple[float, float]],
    size: tuple[float, float],
) -> Iterator[str]:
    run = graph["run"]
    title = _text(f"{run['name']} {run['id']}: {run['state']}{', paused' if run['paused'] else ''}")
    width, height = size
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" role="img">'
    )
    yield f"<title>{title}</title>"
    yield '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    yield '<path d="M0 0L8 4L0 8z" fill="#8a8f98"/></marker></defs>'
    yield f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>'
    yield f'<text x="{_MARGIN}" y="{_MARGIN + 12}" font-size="15" font-weight="bold" fill="#1b1f24">{title}</text>'
    for first, then in edges:
        (x1, y1), (x2, y2) = places[first], places[then]
        x1, y1, y2 = x1 + _WIDTH, y1 + _HEIGHT / 2, y2 + _HEIGHT / 2
        bend = (x2 - x1) / 2
        dashed = "" if steps[then]["when"] == When.ALL_HANDLED else ' stroke-dasharray="5 3"'
        yield (
            f'<path d="M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}" fill="none" '
            f'stroke="#8a8f98"{dashed} marker-end="url(#arrow)"/>'
        )
    for number, step in steps.items():
        yield from _box(step, *places[number])
    yield "</svg>"


def _box(step: dict[str, Any], x: float, y: float) -> Iterator[str]:
    fill, line = COLOURS[StepState(step["state"])]
    name, label = step["name"], label_of(step)
    shown = name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"
    condition = "" if step["when"] == When.ALL_HANDLED else f", {step['when']}"
    yield f"<g><title>{_text(f'{name}: {label}{condition}')}</title>"
    yield (
        f'<rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="{_rounding(step)}" '
        f'fill="{fill}" stroke="{line}"/>'
    )
    middle = x + _WIDTH / 2
    for text, down, size, colour in ((shown, 19, 13, "#1b1f24"), (label, 35, 11, line)):
        where = f'x="{middle:g}" y="{y + down:g}" font-size="{size}"'
        yield f'<text {where} text-anchor="middle" fill="{colour}">{_text(text)}</text>'
    yield "</g>"


def _rounding(step: Mapping[str, Any]) -> int:
    return {"task": 4, "map": 4}.get(step["kind"], _HEIGHT // 2)


def _text(text: str) -> str:
    return escape(printable(text))
