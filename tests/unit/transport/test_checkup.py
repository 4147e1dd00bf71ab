"""What a server's facts mean: the checks of `orchestrator doctor` and of a worker's start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.transport.redis.checkup import Eviction, Facts, Finding, Level, judge

GOOD = {
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "cluster_enabled": "0",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
}


def finding(check: str, info: Mapping[str, str], eviction: Eviction = "refuse", **facts: Any) -> Finding:
    found = judge(Facts({**GOOD, **info}, **facts), eviction)
    return next(one for one in found if one.check == check)


def test_a_good_redis_passes_every_check() -> None:
    facts = Facts(GOOD, {"appendonly": "yes", "appendfsync": "always", "save": ""})
    assert {one.level for one in judge(facts)} == {Level.OK}


@pytest.mark.parametrize(
    ("check", "info", "text"),
    [
        ("version", {"redis_version": "6.0.16"}, "redis_version=6.0.16; allowed: 6.2 or later"),
        ("version", {"redis_version": "5.0.7"}, "redis_version=5.0.7; allowed: 6.2 or later"),
        ("mode", {"cluster_enabled": "1"}, "cluster mode"),
        ("role", {"role": "slave", "master_host": "h", "master_port": "1"}, "a replica of h:1; allowed: a primary"),
        ("eviction", {"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy=allkeys-lru deletes mailboxes"),
        ("eviction", {"maxmemory_policy": "allkeys-random"}, "eviction='any'"),
        ("eviction", {"maxmemory_policy": "volatile-ttl"}, "deletes idempotency keys and outcomes"),
    ],
)
def test_what_breaks_a_promise_fails(check: str, info: dict[str, str], text: str) -> None:
    found = finding(check, info)
    assert (found.level, text in found.text) == (Level.FAIL, True), found


@pytest.mark.parametrize(
    ("policy", "eviction", "level"),
    [
        ("volatile-lru", "volatile", Level.WARN),
        ("volatile-lru", "any", Level.WARN),
        ("allkeys-lfu", "volatile", Level.FAIL),
        ("allkeys-lfu", "any", Level.WARN),
        ("noeviction", "any", Level.OK),
    ],
)
def test_a_setting_accepts_eviction(policy: str, eviction: Eviction, level: Level) -> None:
    assert finding("eviction", {"maxmemory_policy": policy}, eviction).level is level


@pytest.mark.parametrize(
    ("config", "aof", "level", "text"),
    [
        ({}, "0", Level.WARN, "snapshots could not be checked"),
        ({"appendonly": "no", "save": "3600 1"}, "0", Level.WARN, "snapshots only"),
        ({"appendonly": "no", "save": ""}, "0", Level.WARN, "nothing is kept"),
        ({"appendonly": "yes", "appendfsync": "no"}, "1", Level.WARN, "appendfsync=no"),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "1", Level.OK, "up to a second"),
        ({}, "1", Level.WARN, "appendfsync could not be checked (CONFIG GET)"),
    ],
)
def test_what_persistence_means_is_said(config: dict[str, str], aof: str, level: Level, text: str) -> None:
    found = finding("persistence", {"aof_enabled": aof}, config=config)
    assert (found.level, text in found.text) == (level, True), found


def test_what_was_not_asked_for_is_no_warning() -> None:
    # A worker asks for no configuration when it starts.
    (found,) = [one for one in judge(Facts({"aof_enabled": "1"})) if one.check == "persistence"]
    assert found.level is Level.OK


def test_what_may_not_be_asked_is_named() -> None:
    found = judge(Facts())
    assert {one.level for one in found if one.check != "commands"} == {Level.WARN}
    assert all("could not be checked" in one.text for one in found if one.check != "commands")


@pytest.mark.parametrize(
    ("lacking", "level"),
    [
        ({"XAUTOCLAIM": "ERR unknown command `XAUTOCLAIM`"}, Level.FAIL),
        ({"BLMOVE": "NOPERM this user has no permissions"}, Level.FAIL),
        ({"CLIENT LIST": "NOPERM this user has no permissions"}, Level.WARN),
    ],
)
def test_missing_commands_are_named(lacking: dict[str, str], level: Level) -> None:
    found = finding("commands", {}, lacking=lacking)
    assert (found.level, next(iter(lacking)) in found.text) == (level, True)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("unknown command `BLMOVE`, with args beginning with: `k`", "does not know BLMOVE, which Redis 6.2 has first"),
        ("unknown command 'XAUTOCLAIM', with args", "does not know XAUTOCLAIM, which Redis 6.2 has first"),
        ("Error running script: Unknown Redis command called from Lua script", "a command that a script needs"),
        ("this user has no permissions to run the 'blmove' command", "forbids BLMOVE to this user (ACL)"),
        ("User app has no permissions to run the 'client|list' command", "forbids CLIENT|LIST to this user (ACL)"),
        ("Connection refused", "is not available: Connection refused"),
    ],
)
def test_a_command_that_is_missing_or_forbidden_is_no_outage(reason: Any, text: str) -> None:
    assert text in str(BrokerUnavailable("redis://h", reason))
