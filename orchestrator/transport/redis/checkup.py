"""Whether the Redis behind the broker URL can keep what this library promises."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from orchestrator.core.keys import Keys
from orchestrator.transport.redis.examined_keys import ExaminedKeys, examine_keys

#: The oldest Redis that has every command.
OLDEST: Final = (6, 2)

#: Which eviction policies are accepted: none, those that delete keys which expire, or all.
Eviction = Literal["refuse", "volatile", "any"]

_LACKS: Final = re.compile(r"NOPERM|unknown (?:sub)?command|no permissions|unknown option|syntax error", re.IGNORECASE)

#: Runs one command.
Call = Callable[..., Any]


class Level(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The finding of one check."""

    level: Level
    check: str
    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that a server reports of itself."""

    #: Of ``INFO``; empty if that is forbidden.
    info: Mapping[str, str] = field(default_factory=dict)
    #: Of ``CONFIG GET``; empty if that is forbidden, ``None`` if it was not asked for.
    config: Mapping[str, str] | None = None
    #: By command, why it cannot be used.
    lacking: Mapping[str, str] = field(default_factory=dict)
    #: Of all keys; ``None`` if that is forbidden or was not asked for.
    keys: ExaminedKeys | None = None


def gather(call: Call, keys: Keys, *, configuration: bool) -> Facts:
    """Ask a server. No key is written; ``configuration`` also asks for what many users may not see, and
    looks through the keys.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    config: dict[str, str] | None = None
    if configuration:
        config = {}
        for pattern in ("maxmemory*", "append*", "save"):
            config |= _mapping(_try(call, "CONFIG", "GET", pattern)[0])
    lacking = {}
    for command in _probes(f"{keys.root}doctor"):
        _, error = _try(call, *command)
        if _LACKS.search(error):
            name = " ".join(map(str, command[:2])) if command[0] in ("CLIENT", "SCRIPT", "XGROUP") else str(command[0])
            lacking[name] = error
    examined = _examined(call, keys) if configuration else None
    return Facts(_info(_try(call, "INFO")[0]), config, lacking, examined)


def _examined(call: Call, keys: Keys) -> ExaminedKeys | None:
    try:
        return examine_keys(call, keys)
    except RedisConnectionError:
        raise
    except ResponseError:
        return None


def look(call: Call) -> Facts:
    """The facts that one command reports.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    return Facts(_info(_try(call, "INFO")[0]))


def _probes(key: str) -> Iterable[tuple[Any, ...]]:
    """Commands that the library needs, each in a form that changes nothing."""
    yield ("TIME",)
    yield ("SCRIPT", "LOAD", "return 1")
    yield ("EVAL", "return 1", 0)
    yield ("XADD", key, "NOMKSTREAM", "*", "a", "1")
    yield ("XGROUP", "CREATE", key, "g", "$")
    yield ("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", key, ">")
    yield ("XPENDING", key, "g")
    yield ("XCLAIM", key, "g", "c", 0, "1-1", "JUSTID")
    yield ("XAUTOCLAIM", key, "g", "c", 0, "0")
    yield ("XACK", key, "g", "1-1")
    yield ("XDEL", key, "1-1")
    yield ("BLMOVE", key, key, "LEFT", "LEFT", 0.01)
    yield ("CLIENT", "ID")
    yield ("CLIENT", "LIST", "ID", 1)


def _try(call: Call, *command: Any) -> tuple[Any, str]:
    try:
        return call(*command), ""
    except RedisConnectionError:
        raise
    except ResponseError as error:
        return None, str(error)


def _mapping(reply: Any) -> dict[str, str]:
    if isinstance(reply, list):
        reply = dict(zip(reply[::2], reply[1::2], strict=True))
    return {_text(name): _text(value) for name, value in (reply or {}).items()}


def _info(reply: Any) -> dict[str, str]:
    if isinstance(reply, dict):
        return {_text(name): _text(value) for name, value in reply.items()}
    lines = _text(reply).splitlines() if reply else []
    return dict(line.partition(":")[::2] for line in lines if ":" in line and not line.startswith("#"))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


# -- what it means


def judge(facts: Facts, eviction: Eviction = "refuse") -> list[Finding]:
    """The findings, in the order in which they are shown."""
    return [
        _version(facts),
        _mode(facts),
        _role(facts),
        _commands(facts),
        _eviction(facts, eviction),
        _persistence(facts),
        *([_keys(facts.keys)] if facts.keys is not None else []),
    ]


def _keys(examined: ExaminedKeys) -> Finding:
    if examined.broken:
        named = "; ".join(
            f"{name!r} is a {found}, needed: a {needed}" for name, found, needed in sorted(examined.broken)
        )
        return Finding(
            Level.FAIL, "keys", f"something else has written keys of this library: {named}; RENAME or delete them"
        )
    if examined.unreadable:
        named = "; ".join(
            f"{field!r} in {name!r} is {value!r}, needed: {needed}"
            for name, field, value, needed in examined.unreadable
        )
        return Finding(Level.WARN, "keys", f"something else has written to keys of this library: {named}; HDEL it")
    some = "of the first 200,000 of each type, " if examined.has_more else ""
    return Finding(Level.OK, "keys", f"{some}all of the types that are needed")


def _version(facts: Facts) -> Finding:
    said = facts.info.get("redis_version", "")
    oldest = ".".join(map(str, OLDEST))
    try:
        version = tuple(int(part) for part in said.split(".")[:2])
    except ValueError:
        version = ()
    if len(version) < 2:
        return Finding(Level.WARN, "version", f"could not be checked (INFO); needed: {oldest} or later")
    if version < OLDEST:
        return Finding(Level.FAIL, "version", f"redis_version={said}; allowed: {oldest} or later")
    return Finding(Level.OK, "version", said)


def _mode(facts: Facts) -> Finding:
    if facts.info.get("cluster_enabled") == "1" or facts.info.get("redis_mode") == "cluster":
        return Finding(
            Level.FAIL, "mode", "cluster mode; allowed: a single primary, with replicas and Sentinel if you like"
        )
    if not facts.info:
        return Finding(Level.WARN, "mode", "could not be checked (INFO); Redis Cluster is not supported")
    return Finding(Level.OK, "mode", "no cluster")


def _role(facts: Facts) -> Finding:
    role = facts.info.get("role", "")
    if role == "slave":
        where = f"{facts.info.get('master_host', '?')}:{facts.info.get('master_port', '?')}"
        return Finding(Level.FAIL, "role", f"a replica of {where}; allowed: a primary")
    if not role:
        return Finding(Level.WARN, "role", "could not be checked (INFO); needed: a primary")
    return Finding(Level.OK, "role", "primary")


def _commands(facts: Facts) -> Finding:
    if not facts.lacking:
        return Finding(Level.OK, "commands", "all that are needed")
    known = facts.info.get("redis_version", "an unknown version")
    # Without it a death is recognised later, and that is all.
    needed = [name for name in facts.lacking if name != "CLIENT LIST"]
    why = "; ".join(f"{name}: {error}" for name, error in facts.lacking.items())
    if not needed:
        return Finding(Level.WARN, "commands", f"a killed worker is recognised by its lease only: {why}")
    oldest = ".".join(map(str, OLDEST))
    return Finding(
        Level.FAIL, "commands", f"missing or forbidden (Redis {oldest} or later has them; this is {known}): {why}"
    )


def _eviction(facts: Facts, accepted: Eviction) -> Finding:
    policy = (facts.config or {}).get("maxmemory-policy") or facts.info.get("maxmemory_policy", "")
    name = f"maxmemory-policy={policy}"
    if not policy:
        return Finding(
            Level.WARN, "eviction", "maxmemory-policy could not be checked (INFO, CONFIG GET); needed: noeviction"
        )
    if policy == "noeviction":
        return Finding(Level.OK, "eviction", name)
    volatile = policy.startswith("volatile-")
    deletes = "idempotency keys and outcomes" if volatile else "mailboxes, with the messages in them"
    text = f"{name} deletes {deletes} when memory is full; allowed: noeviction"
    enough: Eviction = "volatile" if volatile else "any"
    if accepted == "any" or accepted == enough:
        return Finding(Level.WARN, "eviction", f"{text} (the setting eviction={accepted!r} accepts it)")
    return Finding(Level.FAIL, "eviction", f"{text}, or the setting eviction={enough!r}")


def _persistence(facts: Facts) -> Finding:
    config = facts.config or {}
    aof = config.get("appendonly") or {"1": "yes", "0": "no"}.get(facts.info.get("aof_enabled", ""), "")
    fsync, save = config.get("appendfsync"), config.get("save")
    if not aof:
        return Finding(Level.WARN, "persistence", "could not be checked (INFO, CONFIG GET)")
    if aof != "yes":
        kept = "snapshots only: what came after the last one is" if save else "nothing is kept: everything is"
        if save is None:
            kept = "no append-only file (snapshots could not be checked): what came after the last snapshot is"
        return Finding(Level.WARN, "persistence", f"appendonly=no, {kept} lost when Redis is killed")
    if fsync == "always":
        return Finding(Level.OK, "persistence", "appendonly=yes, appendfsync=always")
    if fsync == "no":
        return Finding(
            Level.WARN, "persistence", "appendonly=yes, appendfsync=no: some 30 s can be lost when the machine dies"
        )
    said = f"appendfsync={fsync}" if fsync else "appendfsync could not be checked (CONFIG GET)"
    # A worker does not ask for it, and need not warn of it at each start.
    level = Level.OK if fsync or facts.config is None else Level.WARN
    return Finding(level, "persistence", f"appendonly=yes, {said}: up to a second can be lost when Redis is killed")
