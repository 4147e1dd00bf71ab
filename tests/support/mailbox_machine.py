"""What the state machines of flow control share: a mailbox on a real Redis, whose clock is the test's."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from hypothesis.stateful import RuleBasedStateMachine

from orchestrator.core.keys import Keys, levels_of
from orchestrator.transport.redis.script_events import unwrap_reply
from tests.support.patient_redis import patient_redis
from tests.support.redis_clock import TimedScripts

QUEUE = "q"
LEVELS = levels_of([0, 3, 6, 9])
TTL_MS = 3_600_000


class MailboxMachine(RuleBasedStateMachine):
    """A mailbox, and the transport's scripts by the test's clock."""

    url: ClassVar[str] = ""

    def __init__(self, begin_ms: int) -> None:
        super().__init__()
        # redis-py types every answer as "bytes or str or nothing"; here they are bytes.
        self.redis = patient_redis(self.url)
        self.redis.flushall()
        self.scripts = TimedScripts(self.redis)
        self.keys = Keys()
        self.now = begin_ms
        self.scripts.set(self.now)

    def run_script(self, name: str, keys: list[str], args: list[Any]) -> Any:
        """Run a script; returns its reply without the events in it."""
        return unwrap_reply(self.scripts.run(name, keys, args))

    def teardown(self) -> None:
        """Close the connection."""
        self.redis.close()


def message(name: str, origin: str | None = None, *, deferring: bool = False) -> str:
    """A tracked message, which waits behind an open breaker if it is ``deferring``."""
    orc = {"track": True, "agent": QUEUE, "message": "M", **({"when_open": "queue"} if deferring else {})}
    return json.dumps({"headers": {"id": name, "origin": origin, "orc": orc}})
