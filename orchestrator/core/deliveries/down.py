"""`Down`: the message that a monitor's owner gets when the target has died."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.errors import InvalidMessage
from orchestrator.core.secrets.masked_repr import summary

#: The reason when the target was not alive in the first place, as in OTP.
NOPROC: Final = "noproc"


@dataclass(frozen=True, slots=True)
class Down:
    """A monitor's target has died. Each monitor that is not removed before causes exactly one.

    ``target`` is what was monitored, as it was named; ``owner`` the incarnation or session that monitored it.
    ``reason`` is the death's (``killed``, ``lost``, ``drained``, …), of an agent's last incarnation, or ``noproc``.
    """

    ref: int
    target: str
    reason: str
    tag: Any
    owner: str

    def __repr__(self) -> str:
        return summary(self, ("ref", "target", "reason", "tag", "owner"))

    @classmethod
    def from_wire(cls, wire: Any) -> Down:
        """A DOWN from JSON data.

        Raises:
            InvalidMessage: it is something else.
        """
        fields = wire if isinstance(wire, Mapping) else {}
        texts = [fields.get(name) for name in ("target", "reason", "owner")]
        if type(fields.get("ref")) is not int or not all(isinstance(text, str) for text in texts):
            raise InvalidMessage("Down", ["allowed: an object with ref, target, reason, tag and owner"])
        return cls(
            int(fields["ref"]), str(fields["target"]), str(fields["reason"]), fields.get("tag"), str(fields["owner"])
        )
