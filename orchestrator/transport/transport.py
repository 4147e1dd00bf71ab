"""The kombu transport; the class that Celery's ``broker_transport`` names."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any
from urllib.parse import quote

from kombu.transport import redis as kombu_redis
from kombu.utils.functional import dictfilter
from kombu.utils.imports import symbol_by_name
from kombu.utils.url import as_url, parse_url

from orchestrator.core.checks.broker_url import ENCODED, problems_of, quoted, scheme_of, servers
from orchestrator.core.errors import InvalidSettings
from orchestrator.core.log import get_logger
from orchestrator.transport import flower_queues
from orchestrator.transport.channel import Channel
from orchestrator.transport.liveness.worker_state import WORKER_STATE
from orchestrator.transport.option_types import (
    FROM_SENTINEL_URL,
    refuse_bad_options,
    refuse_bad_provider,
    refuse_bad_ssl,
    unknown_options,
)
from orchestrator.transport.poller import Poller
from orchestrator.transport.publishing import PublishingChannel
from orchestrator.transport.redis.broker import BROKERS, Broker
from orchestrator.transport.redis.servers import Server, servers_of
from orchestrator.transport.redis.unix_socket import UnixSocket, unix_socket
from orchestrator.transport.sentinel import SENTINEL_PORT, SentinelChannel

logger = get_logger(__name__)

#: The warnings about options that were logged.
_warned: set[str] = set()

#: What ``broker_transport`` says to have it.
TRANSPORT = "orchestrator.transport:Transport"

#: Celery's default for ``Task.Request``, and what it is where this transport is in use.
CELERY_REQUEST = "celery.worker.request:Request"
TRACKED_REQUEST = "orchestrator.transport.celery.tracked_request:TrackedRequest"


def _track_requests() -> None:
    """Have Celery's workers tell us when a message starts executing.

    ``Task.Request`` is Celery's own setting for this; it is changed only where nobody has chosen another, and
    only in a process that has Celery (the transport serves plain kombu as well).
    """
    task_module = sys.modules.get("celery.app.task")
    if task_module is None:
        return
    if task_module.Task.Request == CELERY_REQUEST:
        task_module.Task.Request = TRACKED_REQUEST
    if "celery.worker.strategy" in sys.modules:
        from orchestrator.transport.celery.strategies import watch_strategies

        watch_strategies()


def _adapt_worker() -> None:
    """In a Celery worker's process, list what is scheduled in Redis, and send heartbeat events without waiting."""
    if "celery.worker.control" in sys.modules:
        # Celery warns in nine lines at each reconnect that it cancels nothing. What runs stays held here.
        pending = import_module("celery.exceptions").CPendingDeprecationWarning
        warnings.filterwarnings("ignore", r"\s*In Celery 5\.1 we introduced", pending)
        import orchestrator.transport.celery.event_heartbeats
        import orchestrator.transport.celery.scheduled  # noqa: F401


def _warn_of(lines: list[str]) -> None:
    """Log each line once in this process; a process connects often."""
    for line in lines:
        if line not in _warned:
            _warned.add(line)
            logger.warning("%s", line)


def is_supervised(transport: Any) -> bool:
    """Whether what ``broker_transport`` says is this library's transport."""
    if not transport:
        return False
    try:
        return issubclass(symbol_by_name(transport), Transport)
    except (ImportError, AttributeError, TypeError, ValueError):
        # An alias of kombu's, such as "redis".
        return False


def why_not_supervised(conf: Any) -> str:
    """The reason why the broker of an app with this configuration is not supervised, and a remedy; empty if it is.

    Raises:
        InvalidSettings: the broker's URL cannot be used.
    """
    transport = conf.broker_transport
    if is_supervised(transport):
        return ""
    # Only the scheme: the URL may have a password.
    has = transport or f"that of {scheme_of(servers(conf.broker_write_url or '')[0]) or 'amqp'}://"
    allowed = f"a redis://, rediss:// or sentinel:// URL with broker_transport={TRANSPORT!r}"
    return f"the broker's transport is {has}; allowed: {allowed}"


class Transport(kombu_redis.Transport):
    """Redis Streams instead of lists; everything else as kombu's Redis transport has it.

    A ``sentinel://`` URL is a Sentinel's; ``master_name`` in ``broker_transport_options`` names the primary there.
    """

    Channel: type[PublishingChannel] = Channel

    #: kombu leaves the URL to us. It would drop the scheme, and with it the difference between redis and rediss.
    can_parse_url = True

    def __init__(self, client: Any, **kwargs: Any) -> None:
        is_sentinel = _parse_url(client)
        refuse_bad_options(client.transport_options)
        refuse_bad_ssl(client.ssl)
        refuse_bad_provider(client.credential_provider)
        _warn_of(unknown_options(client.transport_options))
        super().__init__(client, **kwargs)
        self.cycle = Poller()
        if is_sentinel:
            self.Channel, self.default_port = SentinelChannel, SENTINEL_PORT
            _require_primary(client.transport_options)
        #: Which of the URLs' servers is in use: the same answer for all connections of this process to them.
        self.broker = self._broker()
        _keep_transport(self.client)
        if self.broker.servers:
            # It tries them all at each connect; kombu would switch each connection on its own.
            self.client.cycle = None
        _track_requests()
        WORKER_STATE.watch()
        _adapt_worker()
        flower_queues.install()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Called when an event loop takes over."""
        super().register_with_event_loop(connection, loop)
        self.cycle.watch(loop)

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """The defaults of what a URL leaves out; a Unix socket has no host."""
        params: dict[str, Any] = super().default_connection_params
        if self._unix_socket() is not None:
            params.pop("hostname", None)
        return params

    def _unix_socket(self) -> UnixSocket | None:
        return unix_socket(self.client.hostname, self.client.virtual_host)

    def _broker(self) -> Broker:
        if self.Channel is SentinelChannel:
            sentinels = ";".join(self.client.alt) or f"{self.client.hostname}:{self.client.port}"
            return BROKERS.get(f"{self.client.transport_options['master_name']} of {sentinels}")
        servers = servers_of(self.client, self.default_port)
        return BROKERS.get(";".join(self.client.alt) or self._uri(servers[0], include_password=True), servers)

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """The broker URL as its user wrote it: ``redis://``, not this class' name."""
        current = self.broker.current
        if current is None:
            info = self.client.info()
            current = Server(info["hostname"], info["port"], "", info["userid"], info["password"])
        return self._uri(current, include_password=include_password, mask=mask)

    def _uri(self, server: Server, *, include_password: bool = False, mask: str = "**") -> str:
        scheme = "sentinel" if self.Channel is SentinelChannel else "rediss" if self.client.ssl else "redis"
        virtual_host = str(self.client.virtual_host or "").strip("/") or "0"
        if server.path:
            named = self._unix_socket()
            virtual_host = server.path[1:] + (f"/{named.database}" if named and named.database else "")
        url: str = as_url(
            scheme,
            server.host or None,
            server.port or None,
            server.username,
            server.password,
            quote(virtual_host, safe="/" if server.path else ""),
            sanitize=bool(server.password) and not include_password,
            mask=mask,
        )
        return url


def _parse_url(connection: Any) -> bool:
    """Have a kombu connection take its URL apart, as it does for transports that leave it to kombu.

    Returns whether it is a Sentinel's. The connection's clones have no URL any more, but the same options.

    Raises:
        InvalidSettings: the URL's port or database is not a number, or an option of its query cannot be used.
    """
    url, transport = connection.hostname, connection.transport_cls
    if url and "://" in url:
        problems = problems_of(list(dict.fromkeys((url, *connection.alt))))
        if problems:
            raise InvalidSettings(problems)
        if scheme_of(url) == "sentinel":
            connection.transport_options = {**connection.transport_options, FROM_SENTINEL_URL: True}
        try:
            parts = parse_url(url)
        except ValueError:
            # Its text may quote a part of the password.
            raise InvalidSettings([f"broker_url={quoted(url)}: not a URL; {ENCODED}"]) from None
        connection._initial_params.update(dictfilter(parts), hostname=parts["hostname"])
        # By its scheme kombu knows whether it is to speak TLS.
        connection._init_params(**connection._initial_params)
        connection._initial_params["transport"] = connection.transport_cls = transport
    return bool(connection.transport_options.get(FROM_SENTINEL_URL))


def _require_primary(options: Mapping[str, Any]) -> None:
    if not options.get("master_name"):
        raise InvalidSettings(["broker_transport_options: a sentinel:// URL needs master_name, the primary's name"])


def _keep_transport(connection: Any) -> None:
    """Have a kombu connection with several URLs stay with its transport when somebody switches to another of them.

    kombu would take the transport from that URL's scheme, and so leave this one for its own.
    """
    transport = connection.transport_cls

    def switch(url: str) -> None:
        type(connection).switch(connection, url)
        connection.transport_cls = transport

    connection.switch = switch
