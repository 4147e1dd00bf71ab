"""Why an incarnation ended. Kept apart, because each asks for something else to be done."""

from __future__ import annotations

from enum import StrEnum


class DeathReason(StrEnum):
    """The reasons in the record of deaths."""

    #: Its connection is gone: SIGKILL, a crash of the interpreter, the machine.
    KILLED = "killed"
    #: As KILLED, and the kernel's count of processes killed for want of memory has risen in its control group.
    OOM = "oom"
    #: It stopped when told to (SIGTERM, Ctrl-C) and gave back what it had not done.
    DRAINED = "drained"
    #: As DRAINED, by ``celery control deploy``: another version takes its place.
    DEPLOYED = "deployed"
    #: It beat, but asked for no messages while some waited.
    STUCK = "stuck"
    #: Its lease ran out, with the connection still open: stopped, hung, or cut off.
    LOST = "lost"
    #: It was declared dead while it was not; it has learned of that, and its process has begun anew.
    FENCED = "fenced"
    #: It had registered in a data set that Redis has lost; its process has registered anew.
    DATASET_LOST = "dataset_lost"
    #: An error ended its main process.
    CRASHED = "crashed"

    @property
    def is_planned(self) -> bool:
        """Whether somebody wanted it; what was being executed then is on nobody's account."""
        return self in (DeathReason.DRAINED, DeathReason.DEPLOYED)


#: Reasons by which no message is convicted: nobody has proved that the process ended.
UNPROVED = frozenset({DeathReason.LOST, DeathReason.STUCK})
