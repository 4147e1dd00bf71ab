"""The names of fields whose values are masked wherever a message is shown."""

from __future__ import annotations

from orchestrator.agents.directory import Directory
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.secrets.masked_repr import hide_in_reprs
from orchestrator.core.settings import Settings
from orchestrator.telemetry.switch import switch_on
from orchestrator.worker.masked_logs import mask_logs


class HiddenFields:
    """The hidden fields of one app: those of the settings, and the secrets of the agents declared in this process."""

    def __init__(self, settings: Settings, directory: Directory) -> None:
        self._settings = settings
        self._directory = directory

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields."""
        return (*self._settings.redact, *self._directory.secrets)

    def names_for(self, supervision: Supervision | None) -> tuple[str, ...]:
        """The same, and the names of the secret fields of one message."""
        return self.names if supervision is None else (*self.names, *supervision.hide)

    def hide(self) -> None:
        """Mask the fields in this process' telemetry, logs and reprs; to be called again when agents were added."""
        names = self.names
        switch_on(self._settings.telemetry, names)
        mask_logs(names)
        hide_in_reprs(names)
