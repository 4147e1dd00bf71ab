"""The transport's scripts as typed functions: each puts keys and arguments into the order that its script expects.

A function returns a :data:`Call`, to be run by a store, a command connection, a batch or the ack pipeline:
``store.run(*commands.publish(...))``. What a script does, returns and costs is in its header, ``lua/commands/*.lua``.
"""

from orchestrator.transport.redis.commands.accepting import accept, delay, publish
from orchestrator.transport.redis.commands.call import Attempt, Call
from orchestrator.transport.redis.commands.letters import bury_unsent
from orchestrator.transport.redis.commands.liveness import fence, heartbeat, register
from orchestrator.transport.redis.commands.mailboxes import declare, purge
from orchestrator.transport.redis.commands.settling import bury, requeue_held, retry, settle, settle_with_outcome

__all__ = [
    "Attempt",
    "Call",
    "accept",
    "bury",
    "bury_unsent",
    "declare",
    "delay",
    "fence",
    "heartbeat",
    "publish",
    "purge",
    "register",
    "requeue_held",
    "retry",
    "settle",
    "settle_with_outcome",
]
