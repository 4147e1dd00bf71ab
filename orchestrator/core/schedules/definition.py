"""A schedule's definition: what is sent, when, and by which policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.errors import InvalidSchedule
from orchestrator.core.policies.effective import Policy
from orchestrator.core.schedules.checks import definition_faults
from orchestrator.core.schedules.triggers import Foreign, Trigger
from orchestrator.core.schedules.values import SKIP_GRACE_S, Misfire, Overlap, Recipient, Source, TaskRecipient
from orchestrator.core.secrets.masked_repr import summary


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleDefinition:
    """A schedule as it was declared or added. Times are in ms since 1970.

    Raises:
        InvalidSchedule: fields have values that are not allowed; names all of them.
    """

    id: str
    recipient: Recipient
    trigger: Trigger
    #: No nominal time lies before the start or after the end.
    start_ms: int | None = None
    end_ms: int | None = None
    #: After this many fires the schedule has ended.
    max_runs: int | None = None
    #: A fire is delayed by up to this long, by an amount that depends on the schedule and the time alone.
    jitter_s: float = 0.0
    misfire: Misfire = Misfire.COALESCE
    #: A time that is later than this is missed.
    misfire_grace_s: float | None = None
    overlap: Overlap = Overlap.ALLOW
    #: Whether the schedule pauses itself when a delivery is not handled.
    pause_on_failure: bool = False
    #: Retries, timeouts and so on of each fire, as of any send.
    policy: Policy = Policy()  # noqa: RUF009 - it is frozen
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: Source = Source.DYNAMIC
    #: The incarnation that owns the schedule.
    owner: str = ""

    def __post_init__(self) -> None:
        if faults := definition_faults(self):
            raise InvalidSchedule(self.id if isinstance(self.id, str) else "", faults)
        for name, kind in (("misfire", Misfire), ("overlap", Overlap), ("source", Source)):
            object.__setattr__(self, name, kind(getattr(self, name)))
        for name in ("jitter_s", "misfire_grace_s"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else float(value))

    def __repr__(self) -> str:
        return summary(
            self, ("id", "recipient", "trigger", "start_ms", "end_ms", "max_runs", "jitter_s", "misfire",
                   "misfire_grace_s", "overlap", "pause_on_failure", "policy", "metadata", "source", "owner"),
        )  # fmt: skip

    @property
    def is_code_bound(self) -> bool:
        """Whether only a process that declares the schedule can fire it."""
        own_class = isinstance(self.trigger, Foreign) and not self.trigger.arguments
        return own_class or (isinstance(self.recipient, TaskRecipient) and self.recipient.is_lazy)

    @property
    def grace_ms(self) -> int | None:
        """The ms by which a fire may be late."""
        grace_s = self.misfire_grace_s
        if grace_s is None and self.misfire is Misfire.SKIP:
            grace_s = SKIP_GRACE_S
        return None if grace_s is None else round(grace_s * 1000)
