"""What an operator can ask of a tree that runs, and the answers. Each is a table that can be written as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isinf
from time import monotonic
from typing import Any

from orchestrator.core.supervision_tree.spec import ProcessSpec, SupervisorSpec, parent_of
from orchestrator.core.supervision_tree.state import (
    Add,
    Event,
    Node,
    Phase,
    Remove,
    RestartChild,
    Roll,
    Shutdown,
    Start,
    Stop,
)
from orchestrator.supervisor.processes.running import End
from orchestrator.supervisor.reading.building import Builder
from orchestrator.supervisor.reading.definition import InvalidDefinition, Kind, Template
from orchestrator.supervisor.reading.options import MAX_REPLICAS
from orchestrator.supervisor.tree_process import TreeProcess

Table = dict[str, Any]

#: Lines of `logs` unless a number is given.
_LINES = 50


class Refused(Exception):
    """What was asked for cannot be done."""


class Operations:
    """The operations on one tree."""

    def __init__(self, tree: TreeProcess) -> None:
        self._tree = tree
        self._templates: dict[str, Template] = dict(tree.definition.templates)
        self._known: dict[str, Callable[[Mapping[str, Any]], Table]] = {
            "tree": lambda _: self.snapshot(),
            "start": lambda request: self._each(request, Start),
            "reset": self._reset,
            "stop": lambda request: self._each(request, Stop),
            "restart": self._restart,
            "scale": self._scale,
            "add": self._add,
            "remove": self._remove,
            "logs": self._logs,
            "why": self._why,
            "environment": lambda _: {"environment": dict(self._tree.definition.environment)},
        }

    def run(self, request: Any) -> Table:
        """Answer a request; what is wrong with it is an answer, too."""
        # An earlier request may have left events; this one is answered from the state after them.
        self._tree.take_events()
        try:
            name = request.get("operation") if isinstance(request, dict) else None
            known = self._known.get(name) if isinstance(name, str) else None
            if known is None:
                raise Refused(f"operation={request!r}; allowed: {', '.join(self._known)}")
            if self._tree.state.stopping and known not in (
                self._known["tree"],
                self._known["logs"],
                self._known["why"],
            ):
                raise Refused("busy: the tree is being stopped")
            return known(request)
        except (Refused, InvalidDefinition) as error:
            problems = error.problems if isinstance(error, InvalidDefinition) else (str(error),)
            return {"error": "; ".join(problems)}
        except Exception as error:  # noqa: BLE001
            # One request must not end the tree.
            self._tree.loop.on_error(error)
            return {"error": f"{type(error).__name__}: {error}"}

    # -- which

    def _paths(self, request: Mapping[str, Any]) -> list[str]:
        """The children that a request names: by path, by the path of what there are copies of, or by a unique id."""
        name = str(request.get("id") or "")
        nodes = self._tree.state.nodes
        if name in nodes:
            return [name]
        if name in self._templates:
            return [path for path in self._copies(self._templates[name]) if path in nodes]
        # A child without copies is a node and a template, by the same path.
        by_id = [path for path in dict.fromkeys([*nodes, *self._templates]) if path.rpartition("/")[2] == name]
        if name and len(by_id) == 1:
            return self._paths({"id": by_id[0]})
        from orchestrator.core.spelling.nearest import meant

        known = [path for path in nodes if path]
        near = meant(name, known) or f"; there are: {', '.join(known)}"
        raise Refused(f"unknown child {name!r}{near}" if len(by_id) < 2 else f"{name!r} may be: {', '.join(by_id)}")

    def _copies(self, template: Template) -> list[str]:
        """The paths of a child's copies that there are, in their order."""
        known = self._tree.state.nodes
        return [path for path in template.paths(MAX_REPLICAS) if path in known]

    def _post(self, *events: Event) -> None:
        for event in events:
            self._tree.post(event)

    # -- operations

    def _each(self, request: Mapping[str, Any], event: type[Start | Stop]) -> Table:
        paths = self._paths(request)
        for path in paths:
            if event is Stop and path == "":
                self._post(Shutdown())
                continue
            parent = self._tree.state.nodes[parent_of(path)] if path else None
            if event is Start and parent is not None and not parent.is_alive and parent_of(path) != path:
                raise Refused(f"{path}: its supervisor is {parent.phase}; start that")
            self._post(event(path))
        return {"done": paths}

    def _reset(self, request: Mapping[str, Any]) -> Table:
        nodes = self._tree.state.nodes
        below = {path: [nodes[one] for one in self._in_order(path)] for path in self._paths(request)}
        well = [path for path, parts in below.items() if all(_is_well(node) for node in parts)]
        return {**self._each(request, Start), "well": well}

    def _restart(self, request: Mapping[str, Any]) -> Table:
        paths = self._paths(request) if request.get("id") else [""]
        if not request.get("rolling"):
            runs = {leaf: self._tree.state.nodes[leaf].run for path in paths for leaf in self._leaves(path)}
            nodes = self._tree.state.nodes
            stopped = [leaf for leaf in runs if leaf not in paths and _state_of(nodes[leaf], monotonic()) == "stopped"]
            self._post(*(RestartChild(path) for path in paths))
            return {"done": paths, "runs": runs, "stopped": stopped}
        leaves = [leaf for path in paths for leaf in self._leaves(path)]
        workers = [leaf for leaf in leaves if self._tree.children.command_of(leaf).kind is Kind.WORKER] or leaves
        runs = {leaf: self._tree.state.nodes[leaf].run for leaf in workers}
        self._post(Roll(tuple(workers)))
        return {"done": workers, "runs": runs}

    def _leaves(self, path: str) -> list[str]:
        node = self._tree.state.nodes[path]
        if isinstance(node.spec, ProcessSpec):
            return [path]
        return [leaf for child in node.children for leaf in self._leaves(child)]

    def _scale(self, request: Mapping[str, Any]) -> Table:
        name, count = str(request.get("id") or ""), request.get("count")
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_REPLICAS:
            raise Refused(f"{name}={count}; allowed: a whole number from 0 to {MAX_REPLICAS}")
        template = self._template(name)
        nodes = self._tree.state.nodes
        there = [path for path in self._copies(template) if not nodes[path].removing]
        wanted = template.paths(count) if count else []
        builder = self._builder()
        if count > 1 and ("port" in template.options or template.kind is Kind.BEAT):
            raise Refused(f"{name}={count}; allowed: 1 of a child with a port, and of beat")
        for path in (path for path in wanted if path not in there):
            child = builder.copy(template, path)
            self._tree.children.define({path: child.command})
            self._post(Add(parent_of(path), child.spec))
        # The last first, as in a stop.
        surplus = [path for path in reversed(there) if path not in wanted]
        self._post(*(Remove(path) for path in surplus))
        return {"done": wanted, "removed": surplus}

    def _template(self, name: str) -> Template:
        if name in self._templates:
            return self._templates[name]
        found = [one for one in self._templates.values() if one.path.rpartition("/")[2] == name]
        found += [one for one in self._templates.values() if name in self._copies(one)]
        if len(found) == 1:
            return found[0]
        from orchestrator.core.spelling.nearest import meant

        raise Refused(f"unknown child {name!r}{meant(name, self._templates) or '; allowed: a process'}")

    def _builder(self) -> Builder:
        tree = self._tree
        app = next(iter(tree.definition.apps()), None)
        definition = tree.definition
        return Builder("add", definition.directory, tree.directory.path, app, definition.environment)

    def _add(self, request: Mapping[str, Any]) -> Table:
        wanted = str(request.get("parent") or "")
        supervisors = [path for path, node in self._tree.state.nodes.items() if isinstance(node.spec, SupervisorSpec)]
        found = [path for path in supervisors if wanted in (path, path.rpartition("/")[2])]
        exact = [path for path in found if path == wanted]
        parents = exact or found
        if len(parents) != 1:
            raise Refused(
                f"{wanted}: allowed: a supervisor; there are: {', '.join(path or repr('') for path in supervisors)}"
            )
        there = {path: one for path, one in self._tree.children.commands.items() if path in self._tree.state.nodes}
        specs, more = self._builder().further_child(parents[0], request.get("child"), there)
        taken = [path for path in more.templates if path in self._templates or path in self._tree.state.nodes]
        if taken:
            raise Refused(f"{taken[0]}: there is one; allowed: another id")
        self._templates.update(more.templates)
        self._tree.children.define(more.commands)
        self._post(*(Add(parents[0], spec) for spec in specs))
        return {"done": list(more.commands)}

    def _remove(self, request: Mapping[str, Any]) -> Table:
        paths = self._paths(request)
        if "" in paths:
            raise Refused("the root cannot be removed")
        self._post(*(Remove(path) for path in reversed(paths)))
        for path in paths:
            self._templates = {
                name: one for name, one in self._templates.items() if name != path and not name.startswith(f"{path}/")
            }
        self._templates.pop(str(request.get("id")), None)
        return {"done": paths}

    # -- what is there

    def snapshot(self) -> Table:
        """The tree as it is."""
        nodes = self._tree.state.nodes
        return {
            "pid": self._tree.pid,
            "source": self._tree.definition.source,
            "directory": str(self._tree.definition.directory),
            "apps": self._tree.definition.apps(),
            "stopping": bool(self._tree.state.stopping),
            "rolling": list(self._tree.state.rolling),
            "children": [self._row(path) for path in self._in_order("") if path in nodes],
        }

    def _in_order(self, path: str) -> list[str]:
        node = self._tree.state.nodes[path]
        return [path, *(below for child in node.children for below in self._in_order(child))]

    def _row(self, path: str) -> Table:
        node = self._tree.state.nodes[path]
        row: Table = {"path": path, "state": self._state(path), "restarts": node.restarted}
        if isinstance(node.spec, SupervisorSpec):
            return row | {"kind": "supervisor", "strategy": node.spec.strategy.value}
        running, command = self._tree.children.known.get(path), self._tree.children.command_of(path)
        row |= {"kind": command.kind.value, "queues": list(command.queues), "run": node.run}
        row["shutdown_s"] = None if isinf(node.spec.shutdown_s) else node.spec.shutdown_s
        if running is not None:
            alive = node.is_alive
            row |= {
                "pid": running.pid if alive else None,
                "for_s": round(monotonic() - running.started_monotonic_s, 1) if alive else None,
            }
            # Of those that it was not asked for: these are what `restarts` counts.
            ends = [end.text for end in running.ends if not end.asked_for]
            row["last_end"] = ends[-1] if ends else None
        return row

    def _state(self, path: str) -> str:
        nodes = self._tree.state.nodes
        state, above = _state_of(nodes[path], monotonic()), path
        while above and not nodes[path].is_alive and state not in ("stopped", "on hold"):
            above = parent_of(above)
            if nodes[above].phase is Phase.ON_HOLD:
                return f"on hold: orchestrator tree reset {above or repr('')}"
        return state

    def _logs(self, request: Mapping[str, Any]) -> Table:
        count = request.get("lines", _LINES)
        if not isinstance(count, int) or count < 1:
            raise Refused(f"lines={count!r}; allowed: a whole number from 1")
        leaves = [leaf for path in self._paths(request) for leaf in self._leaves(path)]
        known = self._tree.children.known
        kept = {leaf: known[leaf].output.lines.last(count) for leaf in leaves if leaf in known}
        return {"logs": {leaf: [line.decode("utf-8", "replace") for line in lines] for leaf, lines in kept.items()}}

    def _why(self, request: Mapping[str, Any]) -> Table:
        leaves = [leaf for path in self._paths(request) for leaf in self._leaves(path)]
        known = self._tree.children.known
        return {"why": {leaf: self._story(leaf) for leaf in leaves if leaf in known}}

    def _story(self, path: str) -> Table:
        running = self._tree.children.known[path]
        deaths = {death.get("pid"): death for death in running.deaths}
        return {
            "state": self._state(path),
            "ends": [_end_of(end, deaths.get(end.pid)) for end in running.ends],
        }


def _state_of(node: Node, now: float) -> str:
    if node.verdict is not None:
        return node.verdict.value
    if not node.is_alive and not node.wanted:
        return "stopped"
    if not node.is_alive and node.phase.value == "down":
        return f"restarts in {node.not_before - now:.1f} s" if node.not_before > now else "waits for its turn"
    return "on trial" if node.on_trial else node.phase.value


def _is_well(node: Node) -> bool:
    """Whether a part of the tree runs as it should, so that there is nothing to reset."""
    return node.verdict is None and node.is_alive and not node.on_trial


def _end_of(end: End, death: Mapping[str, object] | None) -> Table:
    row: Table = {"at_s": end.at_s, "pid": end.pid, "how": end.text, "asked_for": end.asked_for}
    row["last_words"] = list(end.last_words)
    if death is not None:
        row |= {name: death[name] for name in ("incarnation", "reason", "requeued", "dead_lettered") if name in death}
    return row
