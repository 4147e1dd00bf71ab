"""The text of BrokerUnavailable begins with the cause that Redis names, however deep in its reply that is."""

from __future__ import annotations

import pytest
from redis.exceptions import AuthenticationError, OutOfMemoryError, ResponseError

from orchestrator import BrokerUnavailable
from orchestrator.core.redis_refusals import describe_outage

#: The beginning of an error from within a script, on Redis 6.2 and from 7 on.
OLD = "Error running script (call to f_0a): @user_script:12: @user_script: 12: -"
NEW = " script: 0a, on @user_script:12."


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "Redis is out of memory (maxmemory is reached)"),
        ("NOREPLICAS Not enough good replicas to write.", "Redis has too few replicas to accept a write"),
        ("MISCONF Redis is configured to save RDB snapshots, but", "Redis accepts no writes because it cannot save"),
        ("MISCONF Errors writing to the AOF file: No space left", "Redis accepts no writes because it cannot save"),
        ("READONLY You can't write against a read only replica.", "Redis is a read-only replica"),
        ("LOADING Redis is loading the dataset in memory", "Redis is still loading its data"),
        ("MASTERDOWN Link with MASTER is down and", "Redis is a replica without its primary"),
        ("BUSY Redis is busy running a script. You can only call", "Redis is busy with a long script"),
        ("NOAUTH Authentication required.", "Redis requires a password"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "Redis refuses the user or the password"),
        ("NOPERM this user has no permissions to access one of the keys used as arguments", "Redis forbids a command"),
        ("NOPERM The user executing the script can't run this command or subcommand", "Redis forbids a command"),
    ],
)
@pytest.mark.parametrize("place", ["plain", "code removed", "in a script", "in a script, code removed"])
def test_a_refusal_is_named_first(reply: str, cause: str, place: str) -> None:
    """Regression: a full Redis was "not available: Error running script (call to f_…)", out of memory came last."""
    # redis-py removes the codes that it has an error for.
    sentence = reply if reply.startswith(("MISCONF", "BUSY", "NOREPLICAS")) else reply.partition(" ")[2]
    text = {
        "plain": reply,
        "code removed": sentence,
        "in a script": OLD + reply,
        "in a script, code removed": sentence + NEW,
    }[place]
    said = str(BrokerUnavailable("redis://h:1/0", ResponseError(text)))
    assert said.startswith(cause)
    assert "needed: " in said or "`orchestrator doctor` names" in said
    assert said.endswith(f"; broker redis://h:1/0: {text}")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "Redis is out of memory"),
        (
            AuthenticationError("AUTH <password> called without any password configured for the default user."),
            "Redis has no password, but the broker URL names one",
        ),
        (ConnectionError("max number of clients reached"), "Redis accepts no more connections (maxclients)"),
        (ConnectionError("Too many connections"), "all connections that this process may have are in use"),
        (ResponseError("DENIED Redis is running in protected mode because"), "Redis refuses connections from other"),
    ],
)
def test_a_refused_connection_has_a_cause_too(error: Exception, cause: str) -> None:
    assert str(BrokerUnavailable("redis://h", error)).startswith(cause)
    assert describe_outage(error).startswith(cause), "in the log of what is repeated"


@pytest.mark.parametrize(
    "reason", ["Error 111 connecting to h:1. Connection refused.", "timed out", "closed by server"]
)
def test_what_is_no_refusal_is_said_as_before(reason: str) -> None:
    assert str(BrokerUnavailable("redis://h", reason)) == f"broker redis://h is not available: {reason}"
    assert describe_outage(Exception(reason)) == f"Redis is unreachable ({reason})"


def test_a_reply_without_a_known_cause_is_no_outage() -> None:
    error = ResponseError("ERR value is not an integer or out of range")
    text = "Redis refused a command; broker redis://h: ERR value is not an integer or out of range"
    assert str(BrokerUnavailable("redis://h", error)) == text
    assert describe_outage(error) == "Redis refused a command (ERR value is not an integer or out of range)"


def test_a_key_of_another_type_is_a_cause() -> None:
    error = ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
    assert str(BrokerUnavailable("redis://h", error)).startswith("a key in Redis is of another type")
