"""The Orchestrator of the app that ``celery -A`` has loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.core.checks.broker_url import ENCODED, quoted, servers
from orchestrator.core.errors import InvalidSettings, NotSupervised

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator

#: A command line waits less long for Redis than a worker does. Longer than a single wait for an outcome (2 s).
_SOCKET_TIMEOUT_S = 3.0


def orchestrator_of(context: click.Context, *, connect: bool = True) -> Orchestrator:
    """The Orchestrator, with the app's modules imported and, with ``connect``, the broker known to answer.

    Raises:
        NotSupervised: the app has none.
        InvalidSettings: the broker URL is not one.
        BrokerUnavailable: the broker does not answer.
    """
    app = context.obj.app
    orchestrator: Orchestrator | None = getattr(app, "orchestrator", None)
    if orchestrator is None:
        raise NotSupervised(
            f"the Celery app {app.main or 'default'!r} has no Orchestrator; "
            "make one with Orchestrator(app), and name the app: celery -A MODULE …"
        )
    # As a worker does: agents may be declared in modules that only `include` names.
    app.loader.import_default_modules()
    if connect and not orchestrator.eager:
        for name in ("socket_timeout", "socket_connect_timeout"):
            app.conf.broker_transport_options.setdefault(name, _SOCKET_TIMEOUT_S)
        try:
            # Asked first: publishing would try again for longer than anybody waits at a prompt.
            orchestrator.runtime.store  # noqa: B018
        except ValueError:
            # Its text may quote a part of the password.
            urls = servers(app.conf.broker_read_url or app.conf.broker_url or "")
            raise InvalidSettings([f"broker_url={quoted(';'.join(urls))}: not a URL; {ENCODED}"]) from None
    return orchestrator
