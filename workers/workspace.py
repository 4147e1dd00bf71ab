"""The Redis and the directory of a demo run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from orchestrator.core.errors import CallerError
from orchestrator.core.settings import Settings
from orchestrator.embedded import EmbeddedServer

_CELERYS_VARIABLES = ("BROKER_URL", "CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
_SCHEMES = ("redis://", "rediss://", "sentinel://")


class UnsuitableBroker(CallerError):
    """The demo cannot work on this broker."""


#: The list of the files is one step's result; it holds the names of more than 100,000.
_RESULT_LIMIT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Workspace:
    """The settings and the directory of a demo."""

    settings: Settings
    directory: Path
    #: Whether the demo started the Redis, and stops it at its end.
    own_redis: bool

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables of the demo's processes."""
        inherited = {name: value for name, value in os.environ.items() if name not in _CELERYS_VARIABLES}
        return {
            **inherited,
            "ORCHESTRATOR_BROKER_URL": self.settings.broker_url.get_secret_value(),
            "ORCHESTRATOR_KEY_PREFIX": self.settings.key_prefix,
            "ORCHESTRATOR_RESULT_LIMIT_BYTES": str(_RESULT_LIMIT_BYTES),
            # A killed pool cannot remove its files.
            "TMPDIR": str(self.directory),
        }

    def keep_logs(self) -> Path | None:
        """Copy the logs to a directory that outlives the demo; ``None`` if there are none."""
        logs = list(self.directory.glob("*.log"))
        if not logs:
            return None
        kept = Path(tempfile.mkdtemp(prefix="orchestrator-demo-logs-"))
        for log in logs:
            shutil.copy(log, kept)
        return kept


@contextmanager
def prepare(settings: Settings, run: str) -> Iterator[Workspace]:
    """An embedded Redis, or the broker that the user has configured, with a key prefix for this run.

    Raises:
        UnsuitableBroker: the configured broker is not Redis.
        EmbeddedServerError: the embedded one does not start.
    """
    named = os.environ.get("CELERY_BROKER_URL", "")
    if not named and "broker_url" in settings.model_fields_set:
        named = settings.broker_url.get_secret_value()
    if named:
        if not named.startswith(_SCHEMES):
            raise UnsuitableBroker(f"the demo needs a Redis broker: {', '.join(_SCHEMES)}")
        changed = {"broker_url": SecretStr(named), "key_prefix": f"{settings.key_prefix}demo-{run}:"}
        with tempfile.TemporaryDirectory(prefix="orchestrator-demo-") as directory:
            yield Workspace(settings.model_copy(update=changed), Path(directory), own_redis=False)
        return
    with EmbeddedServer() as server:
        # The server removes its directory, even if this process is killed.
        changed = {"broker_url": SecretStr(server.url), "key_prefix": ""}
        yield Workspace(settings.model_copy(update=changed), server.directory, own_redis=True)
