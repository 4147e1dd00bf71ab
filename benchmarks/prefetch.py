"""``python -m benchmarks.prefetch``: no-op tasks with a prefetch multiplier of 1, and of more, in turns."""

from __future__ import annotations

import argparse
import statistics

from benchmarks.machine import machine
from benchmarks.transport import Bench
from orchestrator.embedded import EmbeddedServer

_POOLS = (("solo", 1), ("threads", 4), ("prefork", 2))
_MULTIPLIERS = (1, 4, 64)


def main() -> None:
    """Print the medians, and their ratio to Celery's default of 4."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    with EmbeddedServer() as server:
        bench = Bench(server.url, options.messages)
        for pool, concurrency in _POOLS:
            rates: dict[int, list[float]] = {multiplier: [] for multiplier in _MULTIPLIERS}
            for _ in range(options.rounds):
                for multiplier in _MULTIPLIERS:
                    bench.arguments = ["--prefetch-multiplier", str(multiplier)]
                    rates[multiplier].append(bench.consume("ours", pool, concurrency))
            medians = {multiplier: statistics.median(found) for multiplier, found in rates.items()}
            shown = "  ".join(f"{m}: {rate:.0f}/s ({rate / medians[4]:.2f})" for m, rate in medians.items())
            print(f"{pool:8} {shown}", flush=True)


if __name__ == "__main__":
    main()
