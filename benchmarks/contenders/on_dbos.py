"""Diamonds of five steps as DBOS workflows on SQLite: ``python -m benchmarks.contenders.on_dbos FOLDER RUNS``.

Prints how many steps a second that was. SQLite is what DBOS uses unless it is given a Postgres.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from dbos import DBOS


@DBOS.step()
def noop(value: int) -> int:
    """Returns what it is given."""
    return value


@DBOS.workflow()
def diamond(value: int) -> int:
    """Five steps."""
    first = noop(value)
    left, right = noop(first), noop(first)
    return int(noop(noop(left + right)))


def main() -> None:
    """Start all runs, and wait for them."""
    folder, runs = Path(sys.argv[1]), int(sys.argv[2])
    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{folder / 'dbos.sqlite'}", "log_level": "ERROR"})
    DBOS.launch()
    try:
        DBOS.start_workflow(diamond, 0).get_result()
        began = time.perf_counter()
        handles = [DBOS.start_workflow(diamond, number) for number in range(runs)]
        for handle in handles:
            handle.get_result()
        print(5 * runs / (time.perf_counter() - began))
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    main()
