"""The kombu transport; the class that Celery's ``broker_transport`` names."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any
from urllib.parse import quote

from kombu.transport import redis as kombu_redis
from kombu.utils.functional import dictfilter
from kombu.utils.url import as_url, parse_url

from orchestrator.transport import flower_queues
from orchestrator.transport.broker import BROKERS, Broker
from orchestrator.transport.channel import Channel
from orchestrator.transport.poller import Poller
from orchestrator.transport.publishing import PublishingChannel
from orchestrator.transport.sentinel import SENTINEL_PORT, SentinelChannel
from orchestrator.transport.server import Server, servers_of
from orchestrator.transport.stopping import WORKER_STATE
from orchestrator.transport.unix_socket import UnixSocket, unix_socket

#: What ``broker_transport`` says to have it.
TRANSPORT = "orchestrator.transport:Transport"

#: Celery's default for ``Task.Request``, and what it is where this transport is in use.
CELERY_REQUEST = "celery.worker.request:Request"
TRACKED_REQUEST = "orchestrator.transport.request:TrackedRequest"


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
        import_module("orchestrator.transport.strategies").watch_strategies()


def _tell_what_is_scheduled() -> None:
    """Have Celery's workers find what is scheduled where it is; only in a process that is one."""
    if "celery.worker.control" in sys.modules:
        import_module("orchestrator.transport.scheduled")


class Transport(kombu_redis.Transport):
    """Redis Streams instead of lists; everything else as kombu's Redis transport has it.

    With ``master_name`` in ``broker_transport_options`` the URLs are those of Sentinels.
    """

    Channel: type[PublishingChannel] = Channel

    #: kombu leaves the URL to us. It would drop the scheme, and with it the difference between redis and rediss.
    can_parse_url = True

    def __init__(self, client: Any, **kwargs: Any) -> None:
        _parse_url(client)
        super().__init__(client, **kwargs)
        self.cycle = Poller()
        if self.client.transport_options.get("master_name"):
            self.Channel, self.default_port = SentinelChannel, SENTINEL_PORT
        #: Which of the URLs' servers is in use: the same answer for all connections of this process to them.
        self.broker = self._broker()
        _keep_transport(self.client)
        if self.broker.servers:
            # It tries them all at each connect; kombu would switch each connection on its own.
            self.client.cycle = None
        _track_requests()
        WORKER_STATE.watch()
        _tell_what_is_scheduled()
        flower_queues.install()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Called when an event loop takes over."""
        super().register_with_event_loop(connection, loop)
        self.cycle.watch(loop)

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """What a URL leaves out; a Unix socket has no host."""
        params: dict[str, Any] = super().default_connection_params
        if self._unix_socket() is not None:
            params.pop("hostname", None)
        return params

    def _unix_socket(self) -> UnixSocket | None:
        return unix_socket(self.client.hostname, self.client.virtual_host)

    def _broker(self) -> Broker:
        if self.Channel is SentinelChannel:
            return BROKERS.get(f"{self.client.transport_options['master_name']} of {';'.join(self.client.alt)}")
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


def _parse_url(connection: Any) -> None:
    """Have a kombu connection take its URL apart, as it does for transports that leave it to kombu."""
    url, transport = connection.hostname, connection.transport_cls
    if url and "://" in url:
        parts = parse_url(url)
        connection._initial_params.update(dictfilter(parts), hostname=parts["hostname"])
        # By its scheme kombu knows whether it is to speak TLS.
        connection._init_params(**connection._initial_params)
        connection._initial_params["transport"] = connection.transport_cls = transport


def _keep_transport(connection: Any) -> None:
    """Have a kombu connection with several URLs stay with its transport when somebody switches to another of them.

    kombu would take the transport from that URL's scheme, and so leave this one for its own.
    """
    transport = connection.transport_cls

    def switch(url: str) -> None:
        type(connection).switch(connection, url)
        connection.transport_cls = transport

    connection.switch = switch
