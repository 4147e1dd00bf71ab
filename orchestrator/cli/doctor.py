"""``orchestrator doctor``: whether the Redis of a deployment is fit for it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import IntEnum

from kombu import Connection

from orchestrator.core.errors import BrokerUnavailable, CallerError
from orchestrator.core.settings import load_settings
from orchestrator.registry.registry import Registry, differing_limits
from orchestrator.transport.redis.checkup import Eviction, Finding, Level, gather, judge
from orchestrator.transport.store import Store, open_store
from orchestrator.transport.transport import TRANSPORT

#: Patience with Redis.
_SOCKET_TIMEOUT_S = 3.0

_EXIT_CODES = """
Exit codes:
  0  every check is ok or a warning
  1  a check failed: a worker would refuse to start, or wait
  2  the command line, or a setting, is not understood
  3  Redis cannot be reached
"""


class Exit(IntEnum):
    """Exit codes; those of ``orchestrator health``."""

    OK = 0
    FAILED = 1
    USAGE = 2
    BROKER_AWAY = 3


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="orchestrator doctor",
        description="Check the Redis of ORCHESTRATOR_BROKER_URL or the profile. Nothing is written to it. "
        "`celery -A APP doctor` checks the Redis of an app.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--broker", metavar="URL", help="check this one instead")
    parser.add_argument("--master-name", metavar="NAME", help="of sentinel:// URLs: what Sentinel calls the primary")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    try:
        return _check(options.broker, options.master_name, as_json=options.json)
    except CallerError as error:
        print(f"Error: {error}", file=sys.stderr)
        return Exit.USAGE
    except BrokerUnavailable as error:
        print(f"Error: {error}", file=sys.stderr)
        return Exit.BROKER_AWAY


def _check(broker: str | None, master_name: str | None, *, as_json: bool) -> int:
    settings = load_settings()
    url = broker or settings.broker_url.get_secret_value()
    transport_options = {
        "global_keyprefix": settings.key_prefix,
        "socket_timeout": _SOCKET_TIMEOUT_S,
        "socket_connect_timeout": _SOCKET_TIMEOUT_S,
        **({"master_name": master_name} if master_name else {}),
    }
    store = open_store(Connection(url, transport=TRANSPORT, transport_options=transport_options))
    try:
        text, passed = examine(store, settings.eviction, as_json=as_json)
    finally:
        store.pool.disconnect()
    print(text)
    return Exit.OK if passed else Exit.FAILED


def examine(store: Store, eviction: Eviction, *, as_json: bool) -> tuple[str, bool]:
    """Check a Redis; returns the findings as text or as a JSON document, and whether no check has failed.

    Raises:
        BrokerUnavailable: Redis cannot be reached.
    """
    facts = store.ask(lambda call: gather(call, store.keys, configuration=True))
    findings = [*judge(facts, eviction), _limits(store)]
    passed = all(finding.level is not Level.FAIL for finding in findings)
    if as_json:
        document = {"broker": store.url, "ok": passed, "checks": [asdict(finding) for finding in findings]}
        return json.dumps(document, indent=2), passed
    checks = (f"{finding.level:<4}  {finding.check}: {finding.text}" for finding in findings)
    return "\n".join([f"Redis at {store.url}", *checks]), passed


def _limits(store: Store) -> Finding:
    """Whether the living workers of each agent declare the same limits."""
    try:
        found = differing_limits(Registry(store).incarnations())
    except BrokerUnavailable as error:
        return Finding(Level.WARN, "declared limits", f"could not be read: {error}")
    if found:
        return Finding(Level.WARN, "declared limits", " ".join(f"{one}." for one in found))
    return Finding(Level.OK, "declared limits", "the living workers of each agent declare the same")
