"""``orchestrator health`` and ``orchestrator metrics``: probes. They import neither the app nor Celery."""

from __future__ import annotations

import argparse
import json
import sys
from time import monotonic
from typing import Any

from orchestrator.health import files
from orchestrator.health.judge import Exit, Verdict, liveness, readiness

#: Name under which the monitor manager records its sweeps.
_MANAGER = "monitor-manager"

#: Timeout of the probe that asks Redis, in seconds.
_PATIENCE_S = 3.0

_EXIT_CODES = """
Exit codes:
  0  healthy
  1  not
  2  the command line, or the broker's URL, is not understood
  3  Redis cannot be reached (--ready, --sweep and --schedules only: a worker that cannot reach Redis is alive)
"""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``health`` and ``metrics``."""
    health = commands.add_parser(
        "health",
        help="whether the workers on this host are well",
        description="Whether the workers on this host, of this user, are well. Alive, if nothing is asked for.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    health.set_defaults(run=_health)
    which = health.add_mutually_exclusive_group()
    which.add_argument("--node", metavar="NAME", help="only the worker of this name (celery worker -n NAME)")
    which.add_argument("--pid", type=int, help="only the worker whose main process this is")
    health.add_argument("--app", metavar="NAME", help="only workers of the Celery app of this name: Celery(NAME)")
    what = health.add_mutually_exclusive_group()
    what.add_argument("--ready", action="store_true", help="alive, consuming, and watched by a sweep that is fresh")
    what.add_argument(
        "--sweep",
        action="store_true",
        help="ask Redis (ORCHESTRATOR_BROKER_URL) whether beat and the manager do theirs",
    )
    what.add_argument(
        "--schedules",
        action="store_true",
        help="ask Redis (ORCHESTRATOR_BROKER_URL) whether schedules are fired: "
        "none is overdue by more than ORCHESTRATOR_SCHEDULER_LATE_S",
    )
    metrics = commands.add_parser(
        "metrics",
        help="where the workers on this host answer Prometheus",
        description="Print where the workers on this host, of this user, answer Prometheus (setting metrics_port), "
        "as JSON for file_sd_configs: orchestrator metrics > /etc/prometheus/orchestrator.json",
    )
    metrics.set_defaults(run=_metrics)


def _health(options: argparse.Namespace) -> int:
    if options.sweep:
        code, text = _sweep()
    elif options.schedules:
        code, text = _schedules()
    else:
        code, text = _workers(options.node, options.pid, options.app, ready=options.ready)
    print(text, file=sys.stderr if code else sys.stdout)
    return int(code)


def _workers(node: str | None, pid: int | None, app: str | None, *, ready: bool) -> Verdict:
    try:
        running = [vitals for folder in files.directories() for vitals in files.living(folder)]
    except FileNotFoundError:
        running = []
    except (OSError, files.UntrustedDirectory) as error:
        return Exit.UNHEALTHY, str(error)
    found = [vitals for vitals in running if _is_meant(vitals, node, pid, app)]
    if not found:
        which = (f" called {node}" if node else f" with pid {pid}" if pid else "") + (f" of app {app}" if app else "")
        others = sorted({_name(vitals, apart=True) for vitals in running})
        return Exit.UNHEALTHY, f"no worker{which} runs here" + (f"; here run: {', '.join(others)}" if others else "")
    judge, now_s = readiness if ready else liveness, monotonic()
    apart = len({vitals.get("app", "") for vitals in found}) > 1
    said = [(_name(vitals, apart=apart), *judge(vitals, now_s)) for vitals in found]
    # A broken worker outweighs one that only waits for Redis.
    worst = next((c for c in (Exit.UNHEALTHY, Exit.BROKER_AWAY) if c in {code for _, code, _ in said}), Exit.HEALTHY)
    return worst, "\n".join(f"{name}: {text}" for name, _, text in said)


def _is_meant(vitals: dict[str, Any], node: str | None, pid: int | None, app: str | None) -> bool:
    return (
        (node is None or vitals["node"] == node)
        and (pid is None or vitals["pid"] == pid)
        and (app is None or vitals.get("app") == app)
    )


def _name(vitals: dict[str, Any], *, apart: bool) -> str:
    """A worker's name, with its app and broker if workers of several apps are listed."""
    app, broker = vitals.get("app"), vitals.get("broker")
    return f"{vitals['node']} (app {app}, {broker})" if apart and app else str(vitals["node"])


def _metrics(_: argparse.Namespace) -> int:
    from orchestrator.health.metrics_targets import targets

    try:
        found = targets()
    except (OSError, files.UntrustedDirectory) as error:
        print(error, file=sys.stderr)
        return int(Exit.UNHEALTHY)
    if not found:
        hint = "set metrics_port (ORCHESTRATOR_METRICS_PORT) where the workers start"
        print(f"no worker of this user on this host answers Prometheus; {hint}", file=sys.stderr)
    print(json.dumps(found, indent=2))
    return int(Exit.HEALTHY)


def _sweep() -> Verdict:
    # Here, because the other probes need not spend time on these imports.
    from orchestrator.health.ask_redis import BadAddress, asked, last_sweep, where_from
    from orchestrator.health.judge import sweeps

    try:
        at_ms, by, now_ms = last_sweep(_PATIENCE_S)
    except BadAddress as error:
        return Exit.USAGE, str(error)
    except OSError as error:
        return Exit.BROKER_AWAY, f"{asked()}: {error}{where_from()}"
    code, text = sweeps(at_ms, by, _MANAGER, now_ms)
    return code, f"{asked()}: {text}"


def _schedules() -> Verdict:
    from orchestrator.health.ask_redis import BadAddress, asked, late_s, overdue_schedules, where_from
    from orchestrator.health.judge import schedules

    try:
        found = overdue_schedules(_PATIENCE_S)
        code, text = schedules(found, late_s())
    except BadAddress as error:
        return Exit.USAGE, str(error)
    except OSError as error:
        return Exit.BROKER_AWAY, f"{asked()}: {error}{where_from()}"
    return code, f"{asked()}: {text}"
