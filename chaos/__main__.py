"""``python -m chaos``: one run, and its verdict."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from chaos.cluster import Cluster
from chaos.judge import Verdict, judge, percentile
from chaos.options import Options, parse
from chaos.run import Run

#: Number of violations that are printed; the files have all.
_SHOWN = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the verdict, and return 0 if all promises held."""
    options = parse(arguments)
    # As SIGINT does: what the run has started is ended before it is.
    signal.signal(signal.SIGTERM, _end)
    logs = options.logs or Path(tempfile.mkdtemp(prefix="chaos-"))
    logs.mkdir(parents=True, exist_ok=True)
    print(_headline(options), flush=True)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"  {time.monotonic() - began:6.1f} s  {text}", flush=True)

    cluster = Cluster(options, logs)
    try:
        cluster.open()
        evidence = Run(cluster, options, say).run()
    finally:
        cluster.close()
    verdict = judge(evidence)
    _report(verdict, logs)
    with (logs / "witness.jsonl").open("w") as kept:
        kept.writelines(json.dumps(asdict(row)) + "\n" for row in evidence.rows)
    if not verdict.violations and options.logs is None:
        shutil.rmtree(logs, ignore_errors=True)
    else:
        print(f"logs: {logs}")
    print(verdict.line, flush=True)
    return 1 if verdict.violations else 0


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _headline(options: Options) -> str:
    if options.chords:
        return (
            f"chaos seed {options.seed}: {options.workers} workers ({', '.join(options.pools)}), "
            f"{options.chords} chords of ten, {options.workflows:g} a second, "
            f"a kill ({', '.join(options.kills)}) every {options.every_s:g} s until all have ended"
        )
    return (
        f"chaos seed {options.seed}: {options.workers} workers ({', '.join(options.pools)}), "
        f"{options.rate:g} sends/s and {options.workflows:g} workflows/s "
        f"for {options.duration_s:g} s, a kill ({', '.join(options.kills)}) every {options.every_s:g} s"
    )


def _report(verdict: Verdict, logs: Path) -> None:
    for name in ("violations", "duplicates", "bystanders", "tardy", "events"):
        (logs / f"{name}.txt").write_text("\n".join(getattr(verdict, name)) + "\n")
    for violation in verdict.violations[:_SHOWN]:
        print(f"VIOLATION {violation}")
    if len(verdict.violations) > _SHOWN:
        print(f"… and {len(verdict.violations) - _SHOWN} more in {logs / 'violations.txt'}")
    print(f"{verdict.monitors} monitors made, {verdict.downs} DOWNs recorded")
    states = ", ".join(f"{count} {state}" for state, count in verdict.runs.states.most_common())
    print(f"{verdict.runs.started} workflows started: {states or 'none'}; {verdict.runs.repeated} steps repeated")
    print(
        f"{verdict.leases.grants} grants, {verdict.leases.terms} of them terms; "
        f"{verdict.leases.refused} late writes refused; "
        f"{verdict.asks.asks} asks and calls, {verdict.asks.fell_back} durable fallbacks"
    )
    print(
        f"{verdict.barriers.generations} generations of barriers, {verdict.barriers.shrunk} of them shrunk; "
        f"{verdict.lanes.entered} executions in lanes, at most {verdict.lanes.most} of a key at a time"
    )
    times = verdict.recovered_s
    elsewhere = f", after {percentile(times, 0.5):.2f} s (median), {max(times):.2f} s (worst)" if times else ""
    print(
        f"{verdict.uncertain} sends uncertain; {len(verdict.bystanders)} harmless messages dead-lettered as poison; "
        f"messages of {len(times)} killed workers ran elsewhere{elsewhere}"
    )


if __name__ == "__main__":
    sys.exit(main())
