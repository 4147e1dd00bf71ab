"""The transport's scripts as typed functions: each puts keys and arguments into the order that its script expects.

A function returns a :data:`Call`, to be run by a store, a command connection, a batch or the ack pipeline:
``store.run(*commands.publish(...))``. What a script does, returns and costs is in its header, ``lua/commands/*.lua``.
"""

from orchestrator.transport.redis.commands.accepting import accept, broadcast, delay, publish
from orchestrator.transport.redis.commands.call import Attempt, Call
from orchestrator.transport.redis.commands.letters import dead_letter_unsent
from orchestrator.transport.redis.commands.liveness import (
    FENCE_REASON_AT,
    begin_sweep,
    claim_chore,
    disprove_death,
    end_sweep,
    fence,
    find_orphans,
    find_stuck,
    heartbeat,
    identify_dataset,
    reclaim,
    register,
    renew_lease,
    unleased_claims,
)
from orchestrator.transport.redis.commands.mailboxes import (
    claim,
    close_breaker,
    declare,
    declare_flow,
    delete,
    find_delivery,
    mailbox_depths,
    mailbox_states,
    purge,
)
from orchestrator.transport.redis.commands.settling import dead_letter, requeue_held, retry, settle, settle_with_outcome

__all__ = [
    "FENCE_REASON_AT",
    "Attempt",
    "Call",
    "accept",
    "begin_sweep",
    "broadcast",
    "claim",
    "claim_chore",
    "close_breaker",
    "dead_letter",
    "dead_letter_unsent",
    "declare",
    "declare_flow",
    "delay",
    "delete",
    "disprove_death",
    "end_sweep",
    "fence",
    "find_delivery",
    "find_orphans",
    "find_stuck",
    "heartbeat",
    "identify_dataset",
    "mailbox_depths",
    "mailbox_states",
    "publish",
    "purge",
    "reclaim",
    "register",
    "renew_lease",
    "requeue_held",
    "retry",
    "settle",
    "settle_with_outcome",
    "unleased_claims",
]
