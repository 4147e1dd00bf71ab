"""What an Orchestrator changes in a Celery app's configuration, all in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from celery import Celery

from orchestrator.core.errors import InvalidSettings
from orchestrator.core.settings import Settings
from orchestrator.transport.transport import TRANSPORT

_SCHEMES = ("redis", "rediss", "sentinel")


class _Shown:
    """A function among the transport's options, which Celery's remote control shows as JSON."""

    def __init__(self, function: Callable[[str, str], bool]) -> None:
        self._function = function

    def __call__(self, incarnation: str, reason: str) -> bool:
        return self._function(incarnation, reason)

    def __json__(self) -> str:
        return "monitors"


def configure(
    app: Celery, settings: Settings, describe: Callable[[], Mapping[str, str]], at_death: Callable[[str, str], bool]
) -> None:
    """Set the transport and its options, late acknowledgement, and JSON as the only content.

    ``describe`` says what a worker's heartbeat tells of it besides what the transport knows; ``at_death`` does what an
    incarnation's death entails besides its mail.

    Raises:
        InvalidSettings: the broker's URL is of a kind for which kombu ignores ``broker_transport``.
    """
    conf = app.conf
    if not conf.broker_url or conf.broker_url == "amqp://":
        conf.broker_url = settings.broker_url.get_secret_value()
    if _scheme(conf.broker_url) in _SCHEMES and not conf.broker_transport:
        conf.broker_transport = TRANSPORT
    conf.broker_transport_options = {
        "heartbeat_s": settings.heartbeat_s,
        "suspect_s": settings.suspect_s,
        "lease_s": settings.lease_s,
        "sweep_stale_s": settings.sweep_stale_s,
        "sweep_gap_s": settings.sweep_stale_s + 3 * settings.heartbeat_s,
        "max_deaths": settings.max_deaths,
        "outcome_ttl_s": settings.outcome_ttl_s,
        "bury_expired": settings.bury_expired,
        "redact": settings.redact,
        "managed": True,
        "describe": describe,
        "at_death": _Shown(at_death),
        "stuck_s": settings.stuck_s,
        **({"global_keyprefix": settings.key_prefix} if settings.key_prefix else {}),
        **(conf.broker_transport_options or {}),
    }
    conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
    )


def _scheme(broker_url: str | Sequence[str]) -> str:
    """The scheme of the first of the broker's URLs."""
    first = broker_url if isinstance(broker_url, str) else broker_url[0]
    scheme = urlsplit(first).scheme
    if scheme.startswith("redis+"):
        raise InvalidSettings(
            [f"broker_url={scheme}://…: kombu uses its own transport there; allowed: redis:///run/redis.sock (or …/DB)"]
        )
    return scheme
