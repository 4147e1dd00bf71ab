"""Why an incarnation ended. An operator acts differently on each reason."""

from __future__ import annotations

from enum import StrEnum


class DeathReason(StrEnum):
    """The reasons in the stream of deaths."""

    #: Its connection is gone: SIGKILL, a crash of the interpreter, the machine.
    KILLED = "killed"
    #: As KILLED, and the kernel's count of OOM kills in its control group has risen.
    OOM = "oom"
    #: It stopped on a signal (SIGTERM, Ctrl-C) and requeued the messages that it had not finished.
    DRAINED = "drained"
    #: As DRAINED, by ``celery control deploy`` or the supervisor of its tree: another version takes its place.
    DEPLOYED = "deployed"
    #: It sent heartbeats but did not claim, although messages waited.
    STUCK = "stuck"
    #: Its lease ran out while its connection was open: the process was stopped or hung, or the network was cut.
    LOST = "lost"
    #: It was declared dead by mistake, noticed it, and its process has registered a new incarnation.
    FENCED = "fenced"
    #: It was registered in a data set that Redis has lost; its process has registered a new incarnation.
    DATASET_LOST = "dataset_lost"
    #: An error ended its main process, or what it ran did, with whatever exit code.
    CRASHED = "crashed"

    @property
    def is_planned(self) -> bool:
        """Whether an operator stopped it. Such a death does not count against the messages that ran."""
        return self in (DeathReason.DRAINED, DeathReason.DEPLOYED)


#: The reason in the history of a message whose handler raised ``SystemExit`` (``sys.exit``). Where the pool is not a
#: process of its own (solo, threads), no process has ended.
EXITED = "exited"

#: Reasons that do not count against a message: it is not proved that the process ended.
UNPROVED = frozenset({DeathReason.LOST, DeathReason.STUCK})
