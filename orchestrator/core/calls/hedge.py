"""`Hedge`: when a call sends its request again, without giving up the first."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.checks.numbers import check_whole_number, is_number
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.spelling.option_names import named_options


@named_options
@dataclass(frozen=True, slots=True)
class Hedge:
    """Send another copy of a request each ``after_s`` seconds without a reply, until there are ``most`` copies.

    The first outcome of a copy is the reply, and the others are cancelled.

    Raises:
        InvalidPolicy: a value is out of range.
    """

    after_s: float
    #: Copies, the first one included: 2 to 5.
    most: int = 2

    def __post_init__(self) -> None:
        if not is_number(self.after_s, 0, 24 * 3600) or not self.after_s:
            raise InvalidPolicy("after_s", self.after_s, "seconds above 0, less than the call's timeout_s")
        check_whole_number("most", self.most, 2, 5)
