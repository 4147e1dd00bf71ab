from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from orchestrator import Orchestrator, load_settings
from tests.apps.supervised_app import BAD, WITHOUT_HEART, Counter
from tests.support.supervised import Supervised, toml

ROOT = Path(__file__).parents[3]

#: With these, no sweep finds a death that the supervisor is about to report, be the machine ever so busy.
PATIENT: dict[str, Any] = {"heartbeat_timeout_s": 500, "lease_s": 600}


@pytest.fixture
def supervise(tmp_path):
    """Starts trees; all of them have ended after the test, with everything that they started."""
    with contextlib.ExitStack() as stack:

        def start(children, *arguments, environment=None, of_all=None, prefix=(), **root) -> Supervised:
            definition = toml(children, **root, **({"environment": of_all} if of_all else {}))
            tree = Supervised(tmp_path, definition, *arguments, environment=environment, prefix=prefix)
            stack.callback(tree.close)
            return tree

        yield start


@pytest.fixture
def orchestrator(redis_url) -> Orchestrator:
    """Sends to the agents of the workers."""
    settings = load_settings(broker_url=redis_url, **PATIENT)
    sender = Orchestrator(Celery("supervised", broker=redis_url, set_as_current=False), settings)
    sender.host(Counter)
    return sender


@pytest.fixture
def workers(supervise, redis_url, tmp_path):
    """Starts trees with workers of ``tests.apps.supervised_app`` below a supervisor ``agents``, or without it."""

    def start(
        replicas: int,
        first: tuple[dict[str, Any], ...] = (),
        worker: dict[str, Any] | None = None,
        prefix: tuple[str, ...] = (),
        *,
        nested: bool = True,
        hearts: bool = False,
        settings: dict[str, Any] = PATIENT,
        **group: Any,
    ) -> Supervised:
        of_all = {
            "ORCHESTRATOR_BROKER_URL": redis_url,
            "ORCHESTRATOR_HEALTH_DIR": str(tmp_path / "health"),
            "PYTHONPATH": str(ROOT),
            "C_FORCE_ROOT": "1",
            BAD: str(tmp_path / "bad"),
            **({} if hearts else {WITHOUT_HEART: "1"}),
            **{f"ORCHESTRATOR_{name.upper()}": str(value) for name, value in settings.items()},
        }
        (tmp_path / "health").mkdir(mode=0o700, exist_ok=True)
        counter = {
            "id": "counter",
            "kind": "worker",
            "queues": ["counter"],
            "pool": "solo",
            "replicas": replicas,
            "arguments": ["--without-gossip", "--without-mingle"],
            **(worker or {}),
        }
        last = {"id": "agents", "children": [counter], **group} if nested else counter
        tree: Supervised = supervise([*first, last], app="tests.apps.supervised_app", of_all=of_all, prefix=prefix)
        return tree

    return start
