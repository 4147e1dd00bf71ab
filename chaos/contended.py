"""What is contended for under chaos: a lease, a semaphore, a pool, and the mailbox of a singleton.

Whoever holds something writes to two registers in the witness: one that refuses a fencing token lower than one that it
has seen, and says so.
"""

from __future__ import annotations

import time
from typing import Any

from chaos.witness import AWAY, witness
from orchestrator import Agent, Context, LeaseLost, LeaseTaken, Message, Orchestrator, PoolEmpty, Retry, Term, handles
from orchestrator.coordination.lease import Held

#: Agents, and their mailboxes.
KEEPER, CHIEF = "keeper", "chief"

#: The election of the processes beside the workers, and that of the singleton.
ELECTION, SINGLETON = "scheduler", f"singleton:{CHIEF}"

#: Permits of the semaphore; resources of the pool.
PERMITS = 2
RESOURCES = ("gpu0", "gpu1")

#: What can be held, beside a term.
KINDS = ("lease", "semaphore", "pool")


class Hold(Message):
    """Holds something of this kind for a while, if it gets it in time."""

    kind: str
    wait_s: float
    nap_s: float


class Command(Message):
    """Takes a while in the leader."""

    nap_s: float


class Keeper(Agent):
    """Holds what it is told to: an owner that is an attempt."""

    name = KEEPER
    retry = Retry(max_retries=3)

    @handles(Hold)
    def hold(self, message: Hold, context: Context) -> None:
        """Hold it, or wait in vain."""
        hold(context.orchestrator, message.kind, message.wait_s, message.nap_s)


class Chief(Agent):
    """A singleton."""

    name = CHIEF
    singleton = True
    retry = Retry(max_retries=3)

    @handles(Command)
    def command(self, message: Command, context: Context) -> None:
        """Nap."""
        witness().write("commanded", node=context.worker, delivery=context.id, by=context.incarnation)
        time.sleep(message.nap_s)

    def on_elected(self, term: Term, context: Context) -> None:
        """Write the term to the witness."""
        witness().write("elected", node=context.worker, number=term.number, leader=term.leader)


def hold(orchestrator: Orchestrator, kind: str, wait_s: float, nap_s: float) -> None:
    """Hold something for a while, as the owner that is here; waits in vain if it does not get it in time."""
    held: Any
    try:
        match kind:
            case "lease":
                held = orchestrator.lease("ledger", wait_s=wait_s)
            case "semaphore":
                held = orchestrator.semaphore("api", PERMITS).acquire(wait_s)
            case _:
                held = orchestrator.pool("gpu", RESOURCES).checkout(wait_s)
        with held:
            write_while_held(kind, held, nap_s)
    except (LeaseTaken, PoolEmpty, *AWAY):
        # While Redis is away, what is held ends with its owner, or is released when Redis is back.
        return


def write_while_held(kind: str, held: Held, nap_s: float) -> None:
    """Write to the registers, nap, and write again, whether or not it is still held by then."""
    name = f"{kind}:{held.name}"
    resource = str(getattr(held, "resource", ""))
    witness().write("held", name=name, fence=held.fence, owner=held.owner, resource=resource)
    # Several hold a permit of a semaphore, and their tokens say nothing about each other.
    register = "" if kind == "semaphore" else f"{name}:{resource}"
    _write(register, held)
    time.sleep(nap_s)
    _write(register, held)
    asked_ms = witness().now_ms()
    try:
        held.check()
        is_held = True
    except LeaseLost:
        is_held = False
    witness().write("checked", name=name, fence=held.fence, held=is_held, asked_ms=asked_ms)


def _write(register: str, held: Held) -> None:
    if register:
        witness().write_register(register, held.fence, held.owner)
