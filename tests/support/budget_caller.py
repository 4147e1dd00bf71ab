"""A process that calls the agent "billing" many times, and retries or hedges all it may.

``python -m tests.support.budget_caller URL CALLS HOW``; it begins when it is told so by a line, and ends by
writing as JSON how its calls have ended.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

from orchestrator import Constant, Hedge, OrchestratorError, Retry
from tests.apps.calls_app import Quote, Slowly, make


def _main(url: str, calls: str, how: str) -> None:
    call, ended = make(url).call, Counter[str]()
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    for number in range(int(calls)):
        try:
            if how == "retry":
                retry = Retry(max_retries=3, backoff=Constant(delay_s=0))
                call("billing", Quote(number=number, how="fails"), timeout_s=60, retry=retry)
            else:
                hedge = Hedge(after_s=0.005, most=2)
                call("billing", Slowly(key=f"{number}", for_s=0.05), timeout_s=60, hedge=hedge)
            ended["handled"] += 1
        except OrchestratorError as error:
            ended[type(error).__name__] += 1
    print(json.dumps(ended), flush=True)  # noqa: T201


if __name__ == "__main__":
    _main(*sys.argv[1:])
