"""The web endpoint of the documentation, run as it stands: 202 at once, the outcome later, from another process too."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any
from uuid import uuid4

import pytest

from orchestrator.core.errors import BrokerUnavailable, CircuitOpen, MailboxFull
from orchestrator.embedded.ports import free_port
from tests.support.eventually import eventually
from tests.support.worker_process import ROOT, WorkerProcess

EXAMPLES = ROOT / "docs" / "examples"


@contextmanager
def served(redis_url: str) -> Iterator[str]:
    """The example behind a real HTTP server; its address."""
    port = free_port()
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), "ORCHESTRATOR_BROKER_URL": redis_url, "PORT": str(port)}
    server = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "web.py")], env=environment, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    try:
        eventually(lambda: server.poll() is not None or _listens(port), timeout_s=30)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait(timeout=10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(method: str, url: str, document: Any = None) -> tuple[int, dict[str, str], Any]:
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, dict(answer.headers), json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), json.load(error)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", "redis://127.0.0.1:1/0")
    spec = spec_from_file_location("web_example", EXAMPLES / "web.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # Its annotations are looked up there.
    monkeypatch.setitem(sys.modules, "web_example", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("error", "retry_after"),
    [
        (MailboxFull("billing", depth=5, limit=5), "1"),
        (CircuitOpen("billing", 2.5), "3"),
        (BrokerUnavailable("redis://x", "gone"), "1"),
    ],
)
def test_a_charge_that_cannot_be_accepted_now_is_503_and_when_to_try_again(
    example: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, retry_after: str
) -> None:
    def send(*_: Any) -> None:
        raise error

    monkeypatch.setattr(example.orchestrator, "send", send)
    status, headers, document = example.answer("POST", "/charges", b'{"order_id": "o1", "cents": 5}')
    assert (status[:3], headers["Retry-After"]) == ("503", retry_after)
    assert document == {"error": str(error)}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_is_no_id_is_404_without_asking_redis(example: Any, method: str) -> None:
    assert example.answer(method, "/deliveries/nobody", b"")[0] == "404 Not Found"
    assert example.answer(method, "/deliveries/0b5b8d37-8f4c-4d4c-9f5e-0f2f1c7a9d11", b"")[0][:3] == "503"


def test_the_web_endpoint_answers_202_and_later_the_outcome(redis_url: str) -> None:
    with served(redis_url) as first, served(redis_url) as second:
        status, headers, accepted = ask("POST", f"{first}/charges", {"order_id": "o1", "cents": 500})
        assert (status, accepted["status"]) == (202, "pending")
        where = headers["Location"]
        assert ask("GET", second + where)[0] == 202
        assert ask("POST", f"{first}/charges", {"order_id": "o1", "cents": -1})[0] == 400
        assert ask("GET", f"{second}/deliveries/nobody")[0] == 404
        assert ask("GET", f"{second}/deliveries/{uuid4()}")[0] == 404

        unwanted = ask("POST", f"{first}/charges", {"order_id": "o2", "cents": 1})[1]["Location"]
        assert ask("DELETE", second + unwanted)[2]["cancelling"] == "cancelled"
        assert ask("GET", first + unwanted)[2]["outcome"] == "cancelled"

        with WorkerProcess("web", redis_url, environment={"PYTHONPATH": f"{ROOT}:{EXAMPLES}"}) as worker:
            ended = eventually(lambda: (a := ask("GET", second + where))[0] == 200 and a[2], 30, worker.log)
        assert ended == {
            "id": accepted["id"],
            "outcome": "handled",
            "result": {"order_id": "o1", "charged": 500},
            "attempts": 1,
        }
