"""Faults that tests plant in the product, to show that a state machine finds them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import RuleBasedStateMachine

import orchestrator
from tests.support.changed_scripts import changed_scripts
from tests.support.driven_machine import drive_machine


@dataclass(frozen=True)
class Fault:
    """A text of the product that is right, and what stands there instead."""

    right: str
    wrong: str
    #: The module that has it; without one, the Lua scripts.
    module: ModuleType | None = None


def cases(faults: Mapping[str, Any], fast: int) -> list[Any]:
    """The names of faults, for a test: the first ``fast`` are of `make test`, the others of `make test-slow`."""
    return [pytest.param(name, marks=[pytest.mark.slow] if place >= fast else []) for place, name in enumerate(faults)]


def assert_finds(
    machine: type[RuleBasedStateMachine], fault: Fault, *, examples: int = 300, steps: int = 30, **options: Any
) -> None:
    """Assert that a machine turns red within so many examples, always the same ones.

    Whether a fault shows may depend on what earlier examples have left, such as scripts that the server has loaded
    meanwhile, so that the same steps do not show it again: it was found all the same.
    """
    with planted(fault), pytest.raises((AssertionError, FlakyFailure)):
        drive_machine(
            machine, "FAULT_EXAMPLES", examples=examples, steps=steps,
            derandomize=True, report_multiple_bugs=False, **options,
        )  # fmt: skip


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """Have what is right be wrong in all scripts that are read meanwhile, or in the functions of a module.

    Raises:
        AssertionError: nothing has it, or nothing that was read.
    """
    with _in_scripts(fault) if fault.module is None else _in_module(fault, fault.module):
        yield


def is_in_a_script(fault: Fault) -> bool:
    """Whether what is right stands in a Lua script of the product."""
    right = fault.right.encode()
    return any(right in file.read_bytes() for file in Path(orchestrator.__file__).parent.rglob("*.lua"))


@contextmanager
def _in_scripts(fault: Fault) -> Iterator[None]:
    right, wrong = fault.right.encode(), fault.wrong.encode()
    # At once: a machine that cannot find it would look for minutes.
    assert is_in_a_script(fault), f"no script has {fault.right!r}"
    files: set[str] = set()

    def change(name: str, text: bytes) -> bytes:
        if right in text:
            files.add(name)
        return text.replace(right, wrong)

    with changed_scripts(change):
        yield
    assert files, f"no script that was read has {fault.right!r}"


@contextmanager
def _in_module(fault: Fault, module: ModuleType) -> Iterator[None]:
    """Functions keep their identity, because others have imported them by name; they get other code."""
    text = inspect.getsource(module)
    assert fault.right in text, f"{module.__name__} has no {fault.right!r}"
    file = str(module.__file__)
    right, wrong = (_codes(compile(one, file, "exec")) for one in (text, text.replace(fault.right, fault.wrong)))
    before = {function: function.__code__ for function in _functions(module)}
    changed = [
        function
        for function in before
        if (name := function.__code__.co_qualname) in wrong and wrong[name] != right[name]
    ]
    assert changed, f"no function of {module.__name__} differs"
    for function in changed:
        function.__code__ = wrong[function.__code__.co_qualname]
    try:
        yield
    finally:
        for function, code in before.items():
            function.__code__ = code


def _codes(code: CodeType) -> dict[str, CodeType]:
    """Qualified names of all functions in a module's code, and their code."""
    found = {}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found[inner.co_qualname] = inner
            found |= _codes(inner)
    return found


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    for value in vars(module).values():
        owners = vars(value).values() if isinstance(value, type) and value.__module__ == module.__name__ else [value]
        for one in owners:
            function = inspect.unwrap(_underlying(one))
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                yield function


def _underlying(value: Any) -> Any:
    """The function of a method of any kind."""
    if isinstance(value, property):
        return value.fget
    return value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
