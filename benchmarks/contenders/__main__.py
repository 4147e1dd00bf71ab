"""``python -m benchmarks.contenders NAME COUNT [WARM-UP]``: publish, and print how many a second that was."""

from __future__ import annotations

import importlib
import sys
import time


def main() -> None:
    """Publish a few to warm up, then the rest against the clock."""
    name, messages = sys.argv[1], int(sys.argv[2])
    module = importlib.import_module(f"benchmarks.contenders.on_{name}")
    if len(sys.argv) > 3:
        module.bulk(int(sys.argv[3]))
    began = time.perf_counter()
    module.bulk(messages)
    print(messages / (time.perf_counter() - began))


if __name__ == "__main__":
    main()
