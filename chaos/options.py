"""The options of a chaos run."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

#: Kinds of kill, and what each does.
KINDS = {
    "hard": "SIGKILL a worker with its pool, as an OOM killer does",
    "child": "SIGKILL one pool process of a prefork worker",
    "cold": "SIGQUIT a worker",
    "warm": "SIGTERM a worker, and SIGKILL it if it has not ended shortly after",
    "graceful": "SIGTERM a worker and give it time to end",
    "stop": "SIGSTOP a worker for one to three seconds",
    "freeze": "SIGSTOP a worker for longer than its lease",
    "manager": "SIGKILL the worker that sweeps",
    "beat": "SIGKILL one of the two beats",
    "beat-stop": "SIGSTOP one of them for one to three seconds",
    "supervisor": "with --tree, SIGKILL the supervisor, and all its children with it",
    "contender": "SIGKILL a process that holds leases, campaigns and asks",
    "contender-stop": "SIGSTOP one for one to three seconds",
    "contender-freeze": "SIGSTOP one for longer than its lease",
    "leader": "SIGKILL whoever leads: the worker of the singleton, or a candidate",
    "redis": "SIGKILL Redis and start it again from its append-only file",
}

#: Default kinds of kill. A frozen worker duplicates, by design, the messages that it had begun.
DEFAULT_KINDS = tuple(kind for kind in KINDS if kind not in ("freeze", "supervisor"))

#: With a tree. Each kill of the supervisor kills all workers, so it may be the third death of a harmless message.
TREE_KINDS = (*DEFAULT_KINDS, "supervisor")

#: Kinds of kill that need something to contend for.
COORDINATION_KINDS = ("contender", "contender-stop", "contender-freeze", "leader")

#: What a run can do without.
PARTS = ("coordination",)

POOLS = ("solo", "threads", "prefork")


@dataclass(frozen=True, slots=True)
class Options:
    """One run. The same seed gives the same load and the same kills at the same times."""

    duration_s: float = 300.0
    seed: int = 0
    workers: int = 3
    pools: tuple[str, ...] = POOLS
    rate: float = 100.0
    workflows: float = 4.0
    schedules: int = 200
    #: Whether there is anything to contend for, to lead and to ask.
    coordination: bool = True
    #: Only so many chords, instead of all other load; the run ends when they have.
    chords: int = 0
    #: Whether `orchestrator supervise` runs the processes, and restarts them.
    tree: bool = False
    kills: tuple[str, ...] = DEFAULT_KINDS
    every_s: float = 5.0
    drain_s: float = 30.0
    logs: Path | None = None


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Options from a command line; a bad value ends the process with a message."""
    default = Options()
    parser = argparse.ArgumentParser(
        prog="python -m chaos",
        description=(__doc__ or "").strip(),
        epilog="kinds of kill: " + "; ".join(f"{kind}: {what}" for kind, what in KINDS.items()),
    )
    parser.add_argument("--duration-s", type=_above_zero, help="length of the load; with --chords at most")
    parser.add_argument(
        "--chords",
        type=int,
        default=0,
        help="start so many chords of ten and nothing else, with a hard kill a second until all have ended",
    )
    parser.add_argument("--seed", type=int, default=None, help="by default one is drawn; it is printed")
    parser.add_argument("--workers", type=_count, default=default.workers)
    parser.add_argument("--pools", type=_some_of(POOLS), default=default.pools, help="shared out among the workers")
    parser.add_argument("--rate", type=_above_zero, default=default.rate, help="sends a second")
    parser.add_argument("--workflows", type=_at_least_zero, help="runs started a second")
    parser.add_argument("--schedules", type=int, help="of 0.5 to 5 s")
    parser.add_argument(
        "--tree", action="store_true", help="have `orchestrator supervise` run and restart the processes"
    )
    parser.add_argument(
        "--without", type=_some_of(PARTS), default=(), help="coordination: no leases, elections and asks"
    )
    parser.add_argument("--kills", type=_some_of(KINDS), help="kinds, separated by commas")
    parser.add_argument("--every-s", type=_above_zero, help="between two kills")
    parser.add_argument(
        "--drain-s", type=_above_zero, default=default.drain_s, help="patience with a broker that settles nothing"
    )
    parser.add_argument("--logs", type=Path, default=None, help="keep the logs here; else only those of a failed run")
    given = parser.parse_args(arguments)
    if given.chords:
        default = Options(kills=("hard",), every_s=1.0, workflows=20.0, schedules=0)
    elif given.tree:
        default = Options(kills=TREE_KINDS)
    coordination = not given.chords and "coordination" not in given.without
    if not coordination:
        default = replace(default, kills=tuple(kind for kind in default.kills if kind not in COORDINATION_KINDS))
    chosen = {
        name: getattr(default, name) if getattr(given, name) is None else getattr(given, name)
        for name in ("duration_s", "workflows", "schedules", "kills", "every_s")
    }
    if not coordination and (idle := set(chosen["kills"]) & set(COORDINATION_KINDS)):
        parser.error(f"--kills {', '.join(sorted(idle))}: allowed: with coordination only")
    return Options(
        **chosen,
        coordination=coordination,
        chords=given.chords,
        tree=given.tree,
        seed=random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed,
        workers=given.workers,
        pools=given.pools,
        rate=given.rate,
        drain_s=given.drain_s,
        logs=given.logs,
    )


def _above_zero(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text}: allowed: a number above 0")
    return value


def _at_least_zero(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text}: allowed: 0 or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 64:
        raise argparse.ArgumentTypeError(f"{text}: allowed: 1 to 64")
    return value


class _some_of:  # noqa: N801
    """Parses a list of names; a class only so that argparse can name it in its errors."""

    def __init__(self, allowed: Sequence[str] | dict[str, str]) -> None:
        self._allowed = tuple(allowed)

    def __call__(self, text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        unknown = [name for name in names if name not in self._allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: allowed: {', '.join(self._allowed)}")
        return names
