"""What timeouts cost a message: `python -m benchmarks.timeouts` prints nanoseconds for each part.

Each part is timed by itself, the best of several rounds, beside an empty call.
"""

from __future__ import annotations

from collections.abc import Callable
from timeit import repeat
from types import SimpleNamespace
from typing import Any

from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.keys import Keys
from orchestrator.core.policies.timeout_overrides import Override, OverrideTable
from orchestrator.core.policies.timeouts import Timeouts
from orchestrator.transport.celery.own_fields import override_of
from orchestrator.transport.liveness.run_times import RunTimes
from orchestrator.worker.execution.execute import run_attempt

_CALLS = 100_000
_ROUNDS = 7


def _ns(part: Callable[[], Any]) -> float:
    return min(repeat(part, number=_CALLS, repeat=_ROUNDS)) / _CALLS * 1e9


def _nothing() -> None:
    pass


def main() -> None:
    """Time each part, and print the sum of what every message pays."""
    patterns = {f"agent-{number}.*": float(number + 1) for number in range(100)}
    timeouts = Timeouts(patterns, default_s=60)
    table = OverrideTable([Override(name, seconds, 0, 0, left_s=1e6) for name, seconds in patterns.items()])
    empty, run_times = OverrideTable(), RunTimes(Keys())
    request = SimpleNamespace(id="1", retries=0)
    unlimited, limited = Supervision(), Supervision(timeout_s=3600, deadline_at_s=4e9)
    parts: dict[str, Callable[[], Any]] = {
        "an empty call": _nothing,
        "sender: the settings' policy of a task, 100 patterns": lambda: timeouts.policy("agent-7.Charge", "agent-7"),
        "sender: the policy of a plain task": lambda: timeouts.merged("agent-7.Charge"),
        "worker: no overrides": lambda: bool(empty),
        "worker: an override, of 100": lambda: table.timeout_s("agent-7.Charge", "agent-7"),
        "worker: the override of the request": lambda: override_of(request),
        "worker: recording a run time": lambda: run_times.record("agent-7.Charge", 0.1),
        "attempt without limits": lambda: run_attempt("a", _nothing, (), {}, request, unlimited),
        "limits of an attempt": lambda: unlimited.limit_s(0.0) if limited.limit_s(0.0) else None,
    }
    found = {name: _ns(part) for name, part in parts.items()}
    for name, ns in found.items():
        print(f"{name:55} {ns:7.0f} ns")
    idle = ("worker: no overrides", "worker: the override of the request", "worker: recording a run time")
    busy = (*idle[1:], "worker: an override, of 100")
    print(f"timeouts: idle_ns={sum(found[n] for n in idle):.0f} overridden_ns={sum(found[n] for n in busy):.0f}")


if __name__ == "__main__":
    main()
