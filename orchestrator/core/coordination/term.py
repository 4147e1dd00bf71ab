"""A term of an election."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Term:
    """A term of an election: from the grant to its leader until that one's end."""

    election: str
    #: Grows from each term to the next, also when Redis has lost its data; it is the fencing token.
    number: int
    #: The incarnation or session that leads, or led.
    leader: str
    #: When it began, in seconds since 1970 by the clock of Redis; 0 if that is not remembered.
    since_s: float
    #: Why it ended: ``resigned``, ``attempt ended``, ``not taken`` (it was granted to a candidate that did not answer
    #: for 5 s, or that had stopped to wait), or the reason of the leader's death (``killed``, ``oom``,
    #: ``stuck``, ``lost``, ``deployed``, ``drained``, ``crashed``); empty while it goes on.
    reason: str = ""
    ended_s: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return bool(self.reason)
