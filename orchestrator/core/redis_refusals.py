"""The cause of an error reply from Redis, in plain words. A script's error quotes it after the script's own name."""

from __future__ import annotations

import re
from typing import Final

#: The first version of Redis with a command; 5.0 has all the others that are needed.
_SINCE: Final = {"XAUTOCLAIM": "6.2", "BLMOVE": "6.2", "LMOVE": "6.2", "GETDEL": "6.2", "HELLO": "6.0", "ACL": "6.0"}

_UNKNOWN_COMMAND: Final = re.compile(r"unknown command [`'\"]?([\w|]+)|(Unknown Redis command)", re.IGNORECASE)
_FORBIDDEN_COMMAND: Final = re.compile(r"no permissions to run the '([\w|]+)' command", re.IGNORECASE)

#: redis-py removes the error code of some replies, so each cause is recognised by Redis' sentence as well. Ordered: the
#: first match counts.
_CAUSES: Final = (
    (
        r"\bOOM\b|used memory > 'maxmemory'|Out of memory",
        "Redis is out of memory (maxmemory is reached); needed: free memory, or a higher maxmemory",
    ),
    (
        r"\bNOREPLICAS\b|Not enough good replicas",
        "Redis has too few replicas to accept a write (min-replicas-to-write); needed: replicas that are connected",
    ),
    (
        r"\bMISCONF\b",
        "Redis accepts no writes because it cannot save to disk; needed: a disk it can write to (see Redis' log)",
    ),
    (r"\bMASTERDOWN\b|Link with MASTER is down", "Redis is a replica without its primary; needed: the primary"),
    (r"\bREADONLY\b|\bread only replica\b|\bis a replica;", "Redis is a read-only replica; needed: the primary"),
    (r"\bLOADING\b|loading the dataset", "Redis is still loading its data; needed: time, then the same again"),
    (r"\bBUSY\b", "Redis is busy with a long script; needed: the end of that script, or SCRIPT KILL"),
    (
        r"max number of clients",
        "Redis accepts no more connections (maxclients); needed: fewer connections, or a higher maxclients",
    ),
    (
        r"^Too many connections",
        "all connections that this process may have are in use; needed: a higher max_connections (transport option)",
    ),
    (r"\bDENIED\b|protected mode", "Redis refuses connections from other hosts (protected mode); needed: a password"),
    (
        r"without any password configured|Client sent AUTH, but no password",
        "Redis has no password, but the broker URL names one; needed: a URL without it",
    ),
    (r"\bNOAUTH\b|Authentication required", "Redis requires a password; needed: broker_url with user and password"),
    (
        r"\bWRONGPASS\b|invalid (?:username-)?password",
        "Redis refuses the user or the password; needed: those of an enabled Redis user in broker_url",
    ),
    (
        r"\bWRONGTYPE\b",
        "a key in Redis is of another type than this library keeps there; needed: that something else has other keys",
    ),
    (
        r"\bNOPERM\b|no permissions|can't (?:run this command|access at least one|publish to the channel)|ACL failure",
        "Redis forbids a command, a key or a channel to this user (ACL); `orchestrator doctor` names what it lacks",
    ),
)


def cause_of(reason: str) -> str:
    """The cause that an error reply names, and what is needed; empty if the reason is another one."""
    if unknown := _UNKNOWN_COMMAND.search(reason):
        name = (unknown[1] or "").upper()
        command = (
            f"{name}, which Redis {_SINCE.get(name, '5.0')} has first" if name else "a command that a script needs"
        )
        return f"Redis does not know {command}; needed: Redis 6.2 or later, and no command renamed or disabled"
    if forbidden := _FORBIDDEN_COMMAND.search(reason):
        return f"Redis forbids {forbidden[1].upper()} to this user (ACL); `orchestrator doctor` names what it lacks"
    return next((cause for pattern, cause in _CAUSES if re.search(pattern, reason)), "")


def is_reply(error: object) -> bool:
    """Whether an error, or its cause, is a reply of Redis, which so is there. Told by the class, without redis-py."""
    chain = (error, getattr(error, "__cause__", None))
    return any(kind.__name__ == "ResponseError" for each in chain for kind in type(each).__mro__)


def describe_outage(error: BaseException) -> str:
    """The reason why a command failed that is repeated until Redis answers, for the log."""
    reason = str(error)
    what = "Redis refused a command" if is_reply(error) else "Redis is unreachable"
    return f"{cause_of(reason) or what} ({reason})"
