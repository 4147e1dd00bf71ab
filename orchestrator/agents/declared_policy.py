"""The policy that a class or a decorator declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.core.errors import InvalidDeclaration, InvalidPolicy
from orchestrator.core.policies.effective import Policy
from orchestrator.core.policies.timeout_classes import allowed_seconds, seconds_of
from orchestrator.core.policies.timeouts import Timeouts


def declared_policy(where: str, values: Mapping[str, Any], timeouts: Timeouts) -> Policy:
    """The policy of these values; ``timeout_s`` may be the name of a class of timeouts.

    Raises:
        InvalidDeclaration: a value is not allowed; begins with ``where``.
    """
    named = values.get("timeout_s")
    try:
        if not isinstance(named, str):
            return Policy(**values)
        timeout_s = seconds_of(named, timeouts.classes)
        if timeout_s is None:
            raise InvalidPolicy("timeout_s", named, allowed_seconds(named, timeouts.classes))
        return Policy(**{**values, "timeout_s": timeout_s})
    except InvalidPolicy as error:
        raise InvalidDeclaration(f"{where}: {error}") from None
