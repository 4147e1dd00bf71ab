"""All changes that an Orchestrator makes to a Celery app's configuration.

Nothing is written into the app's settings, and nothing is evaluated before Celery evaluates it. Each of our values is
computed when its setting is read, from the user's settings at that moment. So the user may configure the app before or
after ``Orchestrator(app)``, and in any way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from celery import Celery
from celery.app import defaults
from celery.app.base import PendingConfiguration
from celery.app.utils import Settings as CelerySettings
from kombu import Queue
from kombu.transport import TRANSPORT_ALIASES

from orchestrator.core.checks.broker_url import ALLOWED, is_served, masked, problems_of, quoted, scheme_of, servers
from orchestrator.core.errors import InvalidSettings
from orchestrator.core.settings import Settings
from orchestrator.transport.option_types import refuse_bad_options, refuse_bad_ssl
from orchestrator.transport.options import DeathHook, Options
from orchestrator.transport.transport import TRANSPORT, is_supervised

#: Names of pickle's content type, which is never accepted.
_PICKLE: Final = ("pickle", "application/x-python-serialize")

#: Values of settings that the user has not set.
_DEFAULTS: Final = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "broker_connection_retry_on_startup": True,
    # Celery ends a worker after 100 attempts, which is 46 minutes.
    "broker_connection_max_retries": None,
}

#: Where Celery finds the scheduler whose schedules are in Redis.
SCHEDULER: Final = "orchestrator.schedules.beat:OrchestratorScheduler"

_CHANGED: Final = (
    *_DEFAULTS, "broker_url", "broker_transport", "broker_transport_options", "accept_content", "beat_scheduler"
)  # fmt: skip

#: The changed settings by each of their names, old ones included.
_NAMES: Final = {name: name for name in _CHANGED} | {
    old: name for name in _CHANGED if (old := defaults._TO_OLD_KEY.get(name)) is not None
}

_MISSING: Final = object()

#: Celery's names of the setting that has sends run inline.
_EAGER: Final = ("task_always_eager", defaults._TO_OLD_KEY["task_always_eager"])

_URLS: Final = ("broker_url", "broker_read_url", "broker_write_url")


class _JsonCallback:
    """A function among the transport's options, which Celery's remote control serialises as JSON."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __json__(self) -> str:
        return "monitors"


class OrchestratedSettings(CelerySettings):
    """Celery's settings; the changed ones are computed when they are read."""

    def __getitem__(self, key: str) -> Any:
        name = _NAMES.get(key)
        if name is None:
            return super().__getitem__(key)
        if isinstance(self.changes, PendingConfiguration):
            self.finalize()
        configuration: Configuration = self.__dict__["configuration"]
        return configuration.value(name, self)

    @property
    def is_eager(self) -> bool:
        """``task_always_eager``, which is asked for at each use of the Orchestrator: Celery's look takes 15 µs."""
        own = self.__dict__
        if own["prefix"] or own["key_t"] is not None:
            return bool(self.task_always_eager)
        for mapping in own["maps"]:
            if type(mapping) is not dict:
                # Not read yet, or an object of the user's.
                break
            for key in _EAGER:
                if key in mapping:
                    return bool(mapping[key])
        return bool(self.task_always_eager)

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """As Celery's, for ``celery report``, which adds masks to broker URLs without a password."""
        table: dict[str, Any] = super().table(with_defaults, censored)
        if censored:
            urls = {name: self[name] for name in _URLS if table.get(name)}
            table |= {name: url for name, value in urls.items() if (url := _masked_urls(value)) is not None}
        return table


class Configuration:
    """The changed settings of one app.

    ``describe``, ``on_death``, ``on_sweep`` and ``hidden`` become options of the transport: additional fields of a
    worker's heartbeat, the death hooks, what else is due at a sweep, and the names of fields whose values are hidden.
    """

    def __init__(
        self,
        app: Celery,
        settings: Settings,
        describe: Callable[[], Mapping[str, str]],
        on_death: Iterable[DeathHook],
        on_sweep: Callable[[], object],
        hidden: Callable[[], tuple[str, ...]],
    ) -> None:
        self._app = app
        self._settings = settings
        self._describe = describe
        self._on_death = tuple(_JsonCallback(hook) for hook in on_death)
        self._on_sweep = _JsonCallback(on_sweep)
        self._hidden = hidden
        self._options = _Merged()
        self._mailboxes: list[Queue] = []
        #: Celery's name of this worker; empty in a process that is none.
        self.node_name = ""
        #: Whether this worker claims ahead of its free slots while its messages are short.
        self.claim_ahead = False
        self.install()
        app.on_after_configure.connect(self.install, weak=False)
        app.on_after_finalize.connect(self.install, weak=False)
        make_queues = app.amqp.Queues
        app.amqp.Queues = lambda *args, **kwargs: self._with_mailboxes(make_queues(*args, **kwargs))

    def install(self, **_: Any) -> None:
        """Make the app's settings ours. Called again when Celery has made a new object by loading its configuration."""
        conf = self._app._conf
        if type(conf) is CelerySettings:
            # Not `conf.__class__ = …`, which would be a setting of that name.
            object.__setattr__(conf, "__class__", OrchestratedSettings)
        if isinstance(conf, OrchestratedSettings):
            conf.__dict__["configuration"] = self

    def add_mailbox(self, queue: Queue) -> None:
        """Have workers consume from a mailbox, unless their queues are selected (``-Q``)."""
        self._mailboxes.append(queue)
        if "queues" in vars(self._app.amqp):
            self._app.amqp.queues.select_add(queue)

    def _with_mailboxes(self, queues: Any) -> Any:
        for queue in self._mailboxes:
            queues.select_add(queue)
        return queues

    # -- the values

    def value(self, name: str, conf: CelerySettings) -> Any:
        """The value of a changed setting at this moment.

        Raises:
            InvalidSettings: it depends on the broker's URL, which cannot be used.
        """
        # All but Celery's own defaults.
        users = CelerySettings({}, conf.maps[:-1], conf._keys, conf.prefix)
        value = users.get(name, _MISSING)
        if name in _DEFAULTS:
            return _DEFAULTS[name] if value is _MISSING else value
        if name == "broker_url":
            value = None if value is _MISSING else value
            return value or (None if users.get("broker_host") else self._own_url)
        if name == "broker_transport":
            return self._transport(conf) if value in (_MISSING, None) else value
        if name == "beat_scheduler" and value is _MISSING and is_supervised(self.value("broker_transport", conf)):
            return SCHEDULER
        if value is _MISSING:
            value = CelerySettings.__getitem__(conf, name)
        if name == "beat_scheduler":
            return value
        if name == "accept_content":
            return [content for content in value or () if content not in _PICKLE]
        return self._options.of(self._transport_options(value), value)

    @property
    def _own_url(self) -> str:
        return self._settings.broker_url.get_secret_value()

    def _transport(self, conf: CelerySettings) -> str | None:
        urls = [url for url in (conf.broker_write_url, conf.broker_read_url) if url]
        problems = [problem for url in dict.fromkeys(map(tuple, map(servers, urls))) for problem in _problems(url)]
        if problems:
            raise InvalidSettings(problems)
        return TRANSPORT if urls and all(is_served(url) for url in urls) else None

    def _transport_options(self, users: Mapping[str, Any] | None) -> dict[str, Any]:
        settings = self._settings
        redact = (users or {}).get("redact", settings.redact)
        return {
            "heartbeat_s": settings.heartbeat_s,
            "heartbeat_timeout_s": settings.heartbeat_timeout_s,
            "lease_s": settings.lease_s,
            "heart": settings.heart,
            "sweep_stale_s": settings.sweep_stale_s,
            "sweep_gap_s": settings.sweep_stale_s + 3 * settings.heartbeat_s,
            "max_deaths": settings.max_deaths,
            "outcome_ttl_s": settings.outcome_ttl_s,
            "max_message_bytes": settings.max_message_bytes,
            "dead_letter_expired": settings.dead_letter_expired,
            "managed": True,
            "describe": self._describe,
            "on_death": self._on_death,
            "on_sweep": self._on_sweep,
            "stuck_s": settings.stuck_s,
            **({"node_name": self.node_name} if self.node_name else {}),
            **({"claim_ahead": True} if self.claim_ahead else {}),
            **({"global_keyprefix": settings.key_prefix} if settings.key_prefix else {}),
            **(users or {}),
            # Fields that an agent's message hides stay hidden. A text is a mistake, which `Options` refuses.
            "redact": redact if isinstance(redact, str) else tuple(dict.fromkeys((*redact, *self._hidden()))),
        }

    def problems(self) -> list[str]:
        """Settings of the app that contradict this library's guarantees, one line each.

        Raises:
            InvalidSettings: the broker's URL or the transport's options cannot be used.
        """
        conf = self._app.conf
        if is_supervised(conf.broker_transport):
            Options.from_transport_options(conf.broker_transport_options)
            refuse_bad_options(conf.broker_transport_options)
            refuse_bad_ssl(conf.broker_use_ssl)
        return _contents(CelerySettings({}, conf.maps, conf._keys, conf.prefix))


def _masked_urls(value: object) -> str | None:
    """Broker URLs without their passwords; ``None`` if it is no URL."""
    if isinstance(value, str):
        return masked(value)
    return ";".join(masked(url) for url in value) if isinstance(value, list | tuple) else None


class _Merged:
    """Our mapping merged with the user's. The same object until the user's is replaced, so that it can be changed."""

    def __init__(self) -> None:
        self._users: Any = None
        self._before: dict[str, Any] = {}
        self._merged: dict[str, Any] = {}

    def of(self, merged: dict[str, Any], users: Any) -> dict[str, Any]:
        """``merged``, made of ``users`` and ours, with later changes in place."""
        if users is not self._users:
            self._users, self._before, self._merged = users, merged, dict(merged)
        elif merged != self._before:
            in_place = {k: v for k, v in self._merged.items() if self._before.get(k, _MISSING) is not v}
            self._before, self._merged = merged, {**merged, **in_place}
        return self._merged


def _problems(urls: tuple[str, ...]) -> list[str]:
    """Problems of the URLs with any broker, one line each."""
    problems = problems_of(urls)
    for server in urls:
        scheme = scheme_of(server)
        if not problems and scheme and "." not in scheme and scheme.partition("+")[0] not in TRANSPORT_ALIASES:
            problems.append(f"broker_url={quoted(server)}: kombu has no transport {scheme!r}; {ALLOWED}")
    return problems


def _contents(users: CelerySettings) -> list[str]:
    problems = []
    for name in ("accept_content", "result_accept_content"):
        pickled = [content for content in users.get(name) or () if content in _PICKLE]
        problems += [
            f"{name} has {content!r}, which lets a message run any code; allowed: 'json'" for content in pickled
        ]
    for name in ("task_serializer", "result_serializer", "event_serializer"):
        if users.get(name) in _PICKLE:
            problems.append(f"{name}={users.get(name)!r}, which lets a message run any code; allowed: 'json'")
    accepted = users.get("accept_content")
    if accepted is not None and not {"json", "application/json"} & set(accepted):
        problems.append(f"accept_content={list(accepted)!r}: supervised messages are JSON; allowed: with 'json'")
    return problems
