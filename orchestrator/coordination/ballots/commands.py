"""The scripts of ballots as typed functions: each puts keys and arguments into the order that its script expects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands import Call
from orchestrator.transport.redis.commands.call import flat


def propose(
    keys: Keys,
    ballot_id: str,
    fingerprint: str,
    timeout_ms: int,
    *,
    fields: Mapping[str, Any],
    voters: Mapping[str, str],
    copies: Iterable[Sequence[str]],
) -> Call:
    """Put a proposal into the mailboxes of some voters. The first call, with ``fields`` and ``voters``, begins it.

    A copy is its voter, queue, level, delivery and message.
    """
    head = [fingerprint, timeout_ms, len(fields), *flat(fields), len(voters), *flat(voters)]
    return "propose", [keys.ballot(ballot_id), keys.ballots, keys.timers], [*head, *chain.from_iterable(copies)]


def end_ballot(keys: Keys, ballot_id: str, action: str, *, why: str = "", token: str = "") -> Call:
    """End a ballot if its ``time`` has come, or ``cancel`` it; or go on with sending its decision."""
    return "end_ballot", [keys.ballot(ballot_id), keys.timers], [ballot_id, action, why, token]
