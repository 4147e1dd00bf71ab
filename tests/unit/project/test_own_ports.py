"""Ports of the servers that tests start: a server that is stopped for a while finds its port free."""

from __future__ import annotations

import socket

import pytest

from orchestrator.embedded import ports
from orchestrator.embedded import server as server_module
from orchestrator.embedded.ports import free_port
from tests.support.own_ports import choose_own_ports


def test_a_port_is_not_chosen_again_soon() -> None:
    assert vars(server_module)["free_port"] is free_port
    chosen = [free_port() for _ in range(500)]
    assert len(set(chosen)) == 500


def test_a_port_that_somebody_has_is_not_chosen() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", following := free_port() + 1))
        taken.listen()
        assert free_port() != following


def test_two_processes_of_the_tests_choose_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    # They are put back.
    monkeypatch.setattr(ports, "free_port", None)
    monkeypatch.setattr(server_module, "free_port", None)
    chosen: list[set[int]] = []
    for worker in ("gw0", "gw1", "gw9"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        choose_own_ports()
        chosen.append({ports.free_port() for _ in range(20)})
    assert not chosen[0] & chosen[1]
    assert not chosen[1] & chosen[2]
    assert all(10_000 <= port < 20_000 for own in chosen for port in own)
