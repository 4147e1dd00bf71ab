"""``python -m benchmarks.prefetch``: no-op tasks with prefetch multipliers of 1, also claiming ahead, and more."""

from __future__ import annotations

import argparse
import os
import statistics

from benchmarks.machine import machine
from benchmarks.noop_app import CLAIM_AHEAD
from benchmarks.transport import Bench
from orchestrator.embedded import EmbeddedServer

_POOLS = (("solo", 1), ("threads", 4), ("prefork", 2))
#: Prefetch multiplier, and whether the transport claims ahead.
_VARIANTS = {"1": (1, False), "1, ahead": (1, True), "4": (4, False), "64": (64, False)}


def main() -> None:
    """Print the medians, and their ratio to a multiplier of 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    with EmbeddedServer() as server:
        bench = Bench(server.url, options.messages)
        for pool, concurrency in _POOLS:
            rates: dict[str, list[float]] = {name: [] for name in _VARIANTS}
            for _ in range(options.rounds):
                for name, (multiplier, ahead) in _VARIANTS.items():
                    os.environ[CLAIM_AHEAD] = str(int(ahead))
                    bench.arguments = ["--prefetch-multiplier", str(multiplier)]
                    rates[name].append(bench.consume("ours", pool, concurrency))
            medians = {name: statistics.median(found) for name, found in rates.items()}
            shown = "  ".join(f"{name}: {rate:.0f}/s ({rate / medians['1']:.2f})" for name, rate in medians.items())
            print(f"{pool:8} {shown}", flush=True)


if __name__ == "__main__":
    main()
