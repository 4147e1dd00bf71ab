"""The faults that are planted in scripts are texts of scripts that still stand there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.support.planted_faults import Fault, is_in_a_script

TESTS = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(("tests", *file.relative_to(TESTS).with_suffix("").parts))
    for file in TESTS.rglob("test_*.py")
    if file != Path(__file__) and "FAULTS = {" in file.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_each_fault_changes_a_script(name: str) -> None:
    """Regression: what two faults of slow tests change stood in no script; their machines looked for minutes."""
    faults = vars(importlib.import_module(name))["FAULTS"]
    in_scripts = {key: fault for key, fault in faults.items() if isinstance(fault, Fault) and fault.module is None}
    assert [key for key, fault in in_scripts.items() if not is_in_a_script(fault)] == []


def test_there_are_faults() -> None:
    assert "tests.integration.transport.test_state" in MODULES
