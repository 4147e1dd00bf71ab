"""Makes a definition of what was read, or finds all that is wrong with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.core.checks.text import printable
from orchestrator.core.supervision_tree.spec import (
    HOLD_INTENSITY,
    AutoShutdown,
    ChildSpec,
    OnGiveUp,
    Restart,
    SupervisorSpec,
    join,
)
from orchestrator.supervisor.reading.definition import (
    Child,
    Command,
    Definition,
    InvalidDefinition,
    Kind,
    ProbeKind,
    Template,
)
from orchestrator.supervisor.reading.kinds import child
from orchestrator.supervisor.reading.options import OPTIONS, REQUIRED, unset_variables

#: Characters of a value that an error shows, at most.
_SHOWN = 60

#: Supervisors within supervisors, at most.
_MAX_DEPTH = 16

_MANAGER_QUEUE = "monitor-manager"

#: Options that only the root has.
_OF_ROOT = ("app", "environment")


class Builder:
    """One reading of one definition."""

    def __init__(
        self,
        source: str,
        directory: Path,
        state: Path,
        app: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._source = source
        self._directory = directory
        self._state = state
        self._app = app
        #: Of all children.
        self._environment = environment or {}
        self._problems: list[str] = []
        self._warnings: list[str] = []
        self._commands: dict[str, Command] = {}
        self._templates: dict[str, Template] = {}

    def refuse(self, path: str, key: str, value: Any, why: str) -> None:
        """Note a fault."""
        shown = value if isinstance(value, str) else repr(value)
        shown = shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."
        where = f"{path}.{key}" if path else key
        self._problems.append(printable(f"{where}={shown}; {why}"))

    def warn(self, text: str) -> None:
        """Note what is allowed, and hardly meant."""
        self._warnings.append(text)

    def warn_of_unset(self, path: str, value: Any) -> None:
        """Note variables in texts that nothing will stand for."""
        for name in dict.fromkeys(unset_variables(value)):
            self.warn(f"{path}: ${name} is not set, so it is empty; ${{{name}:-VALUE}} has a default")

    def build(self, root: Any) -> Definition:
        """The definition.

        Raises:
            InvalidDefinition: with all that is wrong.
        """
        given = dict(root) if isinstance(root, dict) else {}
        if not isinstance(root, dict):
            self.refuse("", "supervisor", root, "allowed: a table")
        self.warn_of_unset("supervisor", {name: value for name, value in given.items() if name != "children"})
        self._app = given.pop("app", self._app)
        if "environment" in given:
            self._environment = self._checked_environment(given.pop("environment"))
        for name in ("id", "kind", "restart", "significant", "shutdown_s"):
            if name in given:
                self.refuse("supervisor", name, given.pop(name), "not allowed of the root")
        spec = self._supervisor("", given, 0)
        self._check_together()
        if not self._templates and not self._problems:
            # It would be ready at once, and run for ever.
            self._problems.append("nothing to run; allowed: at least one process")
        elif not self._commands:
            there = ", ".join(self._templates)
            self.warn(
                "no child has a copy: nothing runs until `orchestrator tree scale ID=COUNT` is used; "
                f"there are: {there}"
            )
        if self._problems:
            raise InvalidDefinition(self._source, self._problems)
        warnings = tuple(self._warnings)
        return Definition(
            spec, self._commands, self._templates, self._source, self._directory, self._environment, warnings
        )

    def further_child(
        self, parent: str, options: Any, there: Mapping[str, Command]
    ) -> tuple[list[ChildSpec], Definition]:
        """A child, or its copies, for a supervisor of a tree that runs; beside the commands that are ``there``.

        Raises:
            InvalidDefinition: with all that is wrong.
        """
        children = self._children(parent, [options], 1)
        self._check_together(there)
        if self._problems:
            raise InvalidDefinition(self._source, self._problems)
        root = SupervisorSpec(children=tuple(children))
        return children, Definition(root, self._commands, self._templates, self._source, self._directory)

    # -- parts

    def _supervisor(self, path: str, options: Mapping[str, Any], depth: int) -> SupervisorSpec:
        checked = self._checked(path or "supervisor", Kind.SUPERVISOR, options, () if path else _OF_ROOT)
        if depth > _MAX_DEPTH:
            self.refuse(path, "children", "", f"supervisors within supervisors; allowed: {_MAX_DEPTH}")
            return SupervisorSpec()
        children = self._children(path, options.get("children", []), depth + 1)
        for name in ("kind", "shutdown_s", "children", "id"):
            checked.pop(name, None)
        if checked.get("on_give_up") is OnGiveUp.HOLD:
            if checked.get("intensity", HOLD_INTENSITY) > HOLD_INTENSITY:
                self.warn(
                    f'{path or "supervisor"} has intensity = {checked["intensity"]} with on_give_up = "hold": '
                    "a message that kills each worker that runs it is a dead letter after max_deaths deaths "
                    f"(default 3), before its mailbox is put on hold; write intensity = {HOLD_INTENSITY}, or omit it"
                )
        elif "hold_s" in checked:
            self.refuse(path or "supervisor", "hold_s", options["hold_s"], 'allowed: only with on_give_up = "hold"')
        spec = SupervisorSpec(path.rpartition("/")[2], tuple(children), **checked)
        for one in children:
            if one.significant and spec.auto_shutdown is AutoShutdown.NEVER:
                self.refuse(join(path, one.id), "significant", "true", "allowed: below a supervisor with auto_shutdown")
        return spec

    def _children(self, parent: str, given: Any, depth: int) -> list[ChildSpec]:
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            self.refuse(parent or "supervisor", "children", given, "allowed: a list of tables")
            return []
        specs: list[ChildSpec] = []
        for number, options in enumerate(given, 1):
            name = options.get("id")
            try:
                path = join(parent, OPTIONS[Kind.PROCESS]["id"](name))
            except ValueError as error:
                path = join(parent, f"child {number}")
                self.refuse(path, "id", name, f"allowed: {error}")
                # Its other faults are listed too.
                options = {name: value for name, value in options.items() if name != "id"}
            specs += self._child(path, options, depth)
        ids = [spec.id for spec in specs]
        for doubled in sorted({one for one in ids if ids.count(one) > 1}):
            self.refuse(join(parent, doubled), "id", doubled, "used twice; allowed: once in a supervisor")
        return specs

    def _child(self, path: str, options: Mapping[str, Any], depth: int) -> list[ChildSpec]:
        try:
            kind = OPTIONS[Kind.PROCESS]["kind"](options.get("kind", "supervisor" if "children" in options else None))
        except ValueError as error:
            self.refuse(path, "kind", options.get("kind"), f"allowed: {error}")
            self._check_as_meant(path, options, depth)
            return []
        if options.get("significant") is True and options.get("restart", Restart.PERMANENT) == Restart.PERMANENT:
            self.refuse(path, "significant", "true", "allowed: with restart = transient | temporary")
        if kind is Kind.SUPERVISOR:
            return [self._supervisor(path, options, depth)]
        self.warn_of_unset(path, dict(options))
        if self._app is not None and "app" in OPTIONS[kind]:
            options = {"app": self._app, **options}
        before = len(self._problems)
        checked = self._checked(path, kind, options)
        self._check_probe(path, kind, checked)
        if len(self._problems) > before:
            return []
        replicas = checked.pop("replicas", None)
        if replicas is not None and replicas > 1 and ("port" in checked or kind is Kind.BEAT):
            self.refuse(path, "replicas", replicas, "allowed: 1 of a child with a port, and of beat")
            return []
        template = self._templates[path] = Template(path, kind, checked, replicas)
        made = [self.copy(template, one) for one in template.paths()]
        if replicas is not None:
            made = [replace(one, spec=replace(one.spec, group=template.path)) for one in made]
        self._commands.update((one.path, one.command) for one in made)
        return [one.spec for one in made]

    def _check_as_meant(self, path: str, options: Mapping[str, Any], depth: int) -> None:
        """Find the other faults of a child whose kind is none, as one of the kind that is most likely meant."""
        from orchestrator.core.spelling.nearest import nearest

        others = {name: value for name, value in options.items() if name != "kind"}
        meant = nearest(options.get("kind"), list(Kind)) or (Kind.PROCESS.value if "command" in options else "")
        if meant == Kind.SUPERVISOR:
            self._supervisor(path, others, depth)
        elif meant:
            kind = Kind(meant)
            if self._app is not None and "app" in OPTIONS[kind]:
                others = {"app": self._app, **others}
            self._check_probe(path, kind, self._checked(path, kind, others))

    def copy(self, template: Template, path: str) -> Child:
        """One copy of a child that was written once."""
        options = template.options
        if path != template.path and "node" in options:
            name, at, host = options["node"].partition("@")
            options = {**options, "node": f"{name}{path.removeprefix(template.path)}{at}{host}"}
        environment = {**self._environment, **options.get("environment", {})}
        return child(path, template.kind, {**options, "environment": environment}, self._directory, self._state)

    def _checked_environment(self, value: Any) -> Mapping[str, str]:
        try:
            checked: Mapping[str, str] = OPTIONS[Kind.PROCESS]["environment"](value)
        except ValueError as error:
            self.refuse("supervisor", "environment", value, f"allowed: {error}")
            return {}
        return checked

    def _checked(self, path: str, kind: Kind, options: Mapping[str, Any], more: tuple[str, ...] = ()) -> dict[str, Any]:
        """The options as they are used; ``more`` are names that were taken out before."""
        checked: dict[str, Any] = {}
        for name, value in options.items():
            check = OPTIONS[kind].get(name)
            if check is None:
                from orchestrator.core.spelling.nearest import meant

                known = [*(key for key in OPTIONS[kind] if key != "id"), *more]
                near = meant(name, known) or f"; allowed: {', '.join(sorted(known))}"
                self.refuse(path, name, value, f"unknown of a {kind}{near}")
                continue
            try:
                checked[name] = check(value)
            except ValueError as error:
                self.refuse(path, name, value, f"allowed: {error}")
        for name in REQUIRED[kind]:
            if name not in options:
                self.refuse(path, name, "", f"missing: a {kind} needs it")
        return checked

    def _check_probe(self, path: str, kind: Kind, options: Mapping[str, Any]) -> None:
        probe = options.get("ready")
        if probe is ProbeKind.PING and kind is not Kind.REDIS and "port" not in options:
            self.refuse(path, "ready", "ping", "allowed: with a port")
        if probe is ProbeKind.HTTP and kind is not Kind.FLOWER and not {"ready_url", "port"} & set(options):
            self.refuse(path, "ready", "http", "allowed: with ready_url or a port")
        if probe is ProbeKind.EXEC and "ready_command" not in options:
            self.refuse(path, "ready", "exec", "allowed: with ready_command")

    # -- what must fit together

    def _check_together(self, there: Mapping[str, Command] | None = None) -> None:
        ports: dict[int, list[str]] = defaultdict(list)
        nodes: dict[str, list[str]] = defaultdict(list)
        for path, command in {**(there or {}), **self._commands}.items():
            if command.port:
                ports[command.port].append(path)
            if command.node:
                nodes[command.node].append(path)
        for port, paths in ports.items():
            if len(paths) > 1:
                self.refuse(paths[1], "port", port, f"used by {paths[0]}; allowed: one child on a port")
        for node, paths in nodes.items():
            if len(paths) > 1:
                self.refuse(paths[1], "node", node, f"used by {paths[0]}; allowed: one worker of a name; set node")
        workers = [one for one in self._commands.values() if one.kind is Kind.WORKER]
        if there is None and workers and not any(_MANAGER_QUEUE in one.queues for one in workers):
            self.warn(
                f"no worker serves {_MANAGER_QUEUE}: others sweep in the place of the manager; "
                f'add a worker with queues = ["{_MANAGER_QUEUE}"]'
            )
        if there is None and workers and not any(one.kind is Kind.BEAT for one in self._commands.values()):
            self.warn(
                "no beat: a worker sweeps and schedules in its place, a few seconds late; add a child of kind beat"
            )
