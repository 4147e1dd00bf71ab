"""What importing this library costs on top of Celery, in interleaved fresh processes.

The baseline is what any Celery app on Redis imports before it sends its first message: ``from celery import Celery``,
the modules behind its lazy attributes (``app.amqp``, ``app.task``, canvas, results), and kombu's Redis transport with
redis-py. Each statement is measured on top of it, so a ratio of 1.15 means that the library adds 15 %. A measurement is
the CPU time of the whole process, interpreter included, because other processes disturb it less than the clock does.

Prints one line for each statement, and last, for ``from orchestrator import Orchestrator``::

    bench-import: ratio=… celery_s=… orchestrator_s=…
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from statistics import median

CELERY = (
    "import kombu.transport.redis, celery.app.amqp, celery.app.task, celery.canvas, celery.result; "
    "from celery import Celery"
)
FACADE = "from orchestrator import Orchestrator"
APP = "app = Celery('shop', broker='redis://')"
STATEMENTS = {
    "celery": CELERY,
    "orchestrator": f"{CELERY}; {FACADE}",
    "declaration": f"{CELERY}; from orchestrator import Orchestrator, Agent, Message",
    "celery-app": f"{CELERY}; {APP}; app.finalize()",
    "orchestrator-app": f"{CELERY}; {FACADE}; {APP}; Orchestrator(app); app.finalize()",
}


def cpu_time_s(statement: str) -> float:
    """The CPU time of a fresh process that executes the statement, in seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen([sys.executable, "-c", statement], env=environment, stdin=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode} of: {statement}")
    return usage.ru_utime + usage.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports", description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="processes for each statement (default: 9)")
    runs = parser.parse_args(arguments).runs
    times_s: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    # The first round writes byte code.
    for number in range(runs + 1):
        for name, statement in STATEMENTS.items():
            took_s = cpu_time_s(statement)
            if number:
                times_s[name].append(took_s)
    medians_s = {name: median(times) for name, times in times_s.items()}
    celery_s = medians_s["celery"]
    for name, took_s in medians_s.items():
        base = "celery-app" if name.endswith("-app") else "celery"
        print(f"{name}: {took_s:.3f} s, {took_s / medians_s[base]:.2f} times {base}")
    orchestrator_s = medians_s["orchestrator"]
    ratio = orchestrator_s / celery_s
    print(f"bench-import: ratio={ratio:.2f} celery_s={celery_s:.3f} orchestrator_s={orchestrator_s:.3f}")


if __name__ == "__main__":
    main()
