"""The process beside a supervisor that records in Redis what only a parent can know: how its workers have ended.

``python -m orchestrator.cli.death_recorder APP``. The supervisor itself imports neither Celery nor a client of Redis.
Requests come as lines of JSON on standard input; each is answered with a line on standard output when it is done. What
Redis does not take now is tried again.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from threading import Event
from typing import TYPE_CHECKING, Any, Final

from orchestrator.core.deliveries.death import DeathReason

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator

#: Exit code if there is nothing to record: the app has no Orchestrator, or no Redis.
NOTHING_TO_DO: Final = 3

#: Pauses between attempts while Redis is away.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0

#: Clocks of one host may differ by this much between two readings.
_SLACK_MS = 2000

_ID = re.compile(r"(?P<node>.*):(?P<pid>\d+)#\d+")

Request = Mapping[str, Any]


class DeathRecorder:
    """Records deaths and holds of one supervisor's workers."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._store = orchestrator.runtime.store
        self._sweeper = self._store.sweeper()
        self._host = socket.gethostname()

    def answer(self, request: Request) -> dict[str, Any]:
        """Do what a request asks.

        Raises:
            BrokerUnavailable, redis.exceptions.RedisError: Redis is away.
        """
        match request["operation"]:
            case "connect":
                return {}
            case "died":
                return {"deaths": [self._record(one, request) for one in self._incarnations(request)]}
            case "hold":
                return {"on_hold": [queue for queue in self._queues(request) if self._hold(queue, request)]}
            case "release":
                return {"released": [queue for queue in self._queues(request) if self._release(queue, request)]}
            case _:
                return {"error": f"operation={request['operation']!r}; allowed: died, hold, release"}

    def _record(self, incarnation: str, request: Request) -> dict[str, Any]:
        reason, error = DeathReason(request["reason"]), str(request["error"])
        # Whatever the process has written last (marks, acknowledgements) is ready to be read by Redis before the first
        # reply, and so has been read before the second.
        for _ in range(2):
            self._store.client.ping()
        recorded = self._sweeper.record_death(
            incarnation, reason, by=f"supervisor@{self._host}", error=error, saw_end=bool(request["saw_end"])
        )
        if recorded is None:
            return {"incarnation": incarnation}
        return {"incarnation": incarnation, **recorded._asdict()}

    def _incarnations(self, request: Request) -> Sequence[str]:
        """The incarnation that the process' health file named; without one, those with its node name and process id."""
        if request.get("incarnation"):
            return [str(request["incarnation"])]
        return list(self._found(request)) if request.get("node") else []

    def _found(self, request: Request) -> Iterator[str]:
        client: Any = self._store.client
        node = self._node(str(request["node"]))
        for raw in client.zrange(self._store.keys.leases, 0, -1):
            found = _ID.fullmatch(raw.decode())
            if found and found["node"] == node and int(found["pid"]) == request["pid"]:
                host, started = client.hmget(self._store.keys.incarnation(raw.decode()), "host", "started_ms")
                is_this = host is not None and host.decode() == self._host
                # Another host of this name may have the same process id; this run began no earlier than its process.
                if is_this and int(started or 0) >= int(1000 * float(request["started_s"])) - _SLACK_MS:
                    yield raw.decode()

    def _node(self, template: str) -> str:
        from celery.utils.nodenames import default_nodename, host_format

        return str(host_format(default_nodename(template)))

    def _queues(self, request: Request) -> Sequence[str]:
        queues = request.get("queues")
        return list(queues) if queues else list(self._orchestrator.app.amqp.queues)

    def _holder(self, request: Request) -> str:
        return self._node(str(request["node"])).rpartition("@")[2]

    def _hold(self, queue: str, request: Request) -> bool:
        from orchestrator.transport.redis import commands

        return bool(self._store.run(*commands.hold_mailbox(self._store.keys, queue, self._holder(request))))

    def _release(self, queue: str, request: Request) -> bool:
        from orchestrator.transport.redis import commands

        return bool(self._store.run(*commands.release_mailbox(self._store.keys, queue, self._holder(request))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer requests until standard input is closed."""
    (name,) = sys.argv[1:] if arguments is None else arguments
    from celery.app.utils import find_app

    try:
        app = find_app(name)
    except Exception as error:  # noqa: BLE001
        # The workers say the same, with the stack.
        sys.stderr.write(f"the app {name} cannot be imported: {type(error).__name__}: {error}\n")
        return 1
    orchestrator = getattr(app, "orchestrator", None)
    if orchestrator is None or orchestrator.eager:
        sys.stderr.write(f"the app {name} has no Orchestrator with Redis: sweeps find its workers' deaths\n")
        return NOTHING_TO_DO
    from orchestrator.core.errors import NotSupervised

    app.loader.import_default_modules()
    recorder, written = None, ""
    pause = Event()
    for line in sys.stdin:
        request = json.loads(line)
        pause_s, answer = _FIRST_PAUSE_S, None
        while answer is None:
            try:
                recorder = recorder or DeathRecorder(orchestrator)
                answer = recorder.answer(request)
                written = ""
            except NotSupervised as error:
                sys.stderr.write(f"nothing to record for the app {name}: {error}\n")
                return NOTHING_TO_DO
            except Exception as error:  # noqa: BLE001
                # Whatever it is: the supervisor's request is not lost, and is tried again.
                # An outage is one line, however long it lasts.
                text = f"not recorded, will be tried again: {type(error).__name__}: {error}\n"
                if text != written:
                    sys.stderr.write(text)
                    written = text
                recorder = None
                pause.wait(pause_s)
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
        os.write(1, json.dumps({"number": request["number"], **answer}).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
