"""DOWN messages with no receiver are skipped in parts, so that no script holds Redis for long."""

from __future__ import annotations

import json

from orchestrator.monitors import commands
from tests.apps import flow_app


def test_downs_that_nobody_wants_are_passed_in_parts(redis_url: str) -> None:
    orchestrator = flow_app.make(redis_url)
    store = orchestrator.runtime.redis.monitors
    with store.session() as session:
        k, client = store.store.keys, store.store.client
        inbox = k.downs(session.id)
        for ref in range(1, 2502):
            down = {"ref": ref, "target": "eu", "reason": "killed", "tag": "", "owner": session.id}
            client.rpush(inbox, json.dumps(down, separators=(",", ":")))
            if ref <= 2500:
                client.set(k.flushed(ref), "1")
        assert store.run(*commands.next_down(k, session.id, "")) == [-1]
        assert client.llen(inbox) == 1501
        found = session.next_down(timeout_s=10)
        assert found is not None
        assert found.ref == 2501
    orchestrator.app.close()
