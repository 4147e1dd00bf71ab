"""A process whose requests have no reply in time.

``python -m tests.support.late_caller URL`` writes ``loaded``, reads names of ways to ask, one a line, and writes for
each how it has ended: the names of the errors that its caller gets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator import Ask, Constant, Hedge, NotEnoughReplies, Orchestrator, OrchestratorError, Retry, Send, Value
from orchestrator.telemetry import Event, attach, detach
from tests.apps.calls_app import Quote, Relay, Slowly, make

#: Longest time of a request. The tests suspend a process within it.
TIMEOUT_S: Final = 1.2

_HELD: Final = Quote(number=1, how="holds")


def _call(**options: Any) -> Callable[[Orchestrator], Any]:
    return lambda orchestrator: orchestrator.call("billing", _HELD, timeout_s=TIMEOUT_S, **options)


def _fall_back(orchestrator: Orchestrator) -> str:
    seen: list[Event] = []
    attach(seen.append, "call.fell_back")
    result = _call(fallback=[Ask("alone"), Value(3)])(orchestrator)
    detach(seen.append)
    return f"{seen[0].metadata['error']} {result}"


WAYS: Final[Mapping[str, Callable[[Orchestrator], Any]]] = {
    "call": _call(),
    "must not run again": _call(on_death="fail"),
    "retried": _call(retry=Retry(max_retries=2, backoff=Constant(delay_s=0))),
    "hedged": lambda orchestrator: orchestrator.call(
        "billing", Slowly(key="slow", for_s=30), timeout_s=TIMEOUT_S, hedge=Hedge(after_s=0.1, most=2)
    ),
    "falls back": _fall_back,
    "durable fallback": _call(fallback=[Send(durable=True, deadline_s=0.001, on_error="ignore")]),
    "ask": lambda orchestrator: orchestrator.ask("billing", _HELD, timeout_s=TIMEOUT_S).reply(),
    "ask all": lambda orchestrator: orchestrator.ask_all(["billing", "bounded"], _HELD, timeout_s=TIMEOUT_S, need=1),
    "nested": lambda orchestrator: orchestrator.call("shop", Relay(number=1), timeout_s=TIMEOUT_S),
}


def _main(url: str) -> None:
    orchestrator = make(url)
    print("loaded", flush=True)  # noqa: T201
    for line in sys.stdin:
        try:
            result = WAYS[line.strip()](orchestrator)
            ended = type(result.error).__name__ if hasattr(result, "error") else str(result)
        except NotEnoughReplies as error:
            ended = " ".join(f"{agent}={type(why).__name__}" for agent, why in sorted(error.errors.items()))
        except OrchestratorError as error:
            ended = type(error).__name__
        print(ended, flush=True)  # noqa: T201


if __name__ == "__main__":
    _main(*sys.argv[1:])
