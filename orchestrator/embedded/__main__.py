"""Run an embedded Redis server in the foreground: `python -m orchestrator.embedded --port 6379`."""

import argparse
import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from orchestrator.embedded.port_taken import EmbeddedServerError, ServerEndedError
from orchestrator.embedded.server import EmbeddedServer

_SERVER_CHECK_S = 1.0
_CLIENTS_CHECK_S = 0.1
_MOST_LINGER_S = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    The exit code is 1 if the server cannot start, or ends by itself. If a signal ends the server, it ends this process,
    too, so that a supervisor knows.
    """
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.embedded",
        description="Run a Redis server on loopback until SIGTERM or Ctrl-C.",
    )
    parser.add_argument("--port", type=int, help="port to listen on (default: a free one)")
    parser.add_argument("--dir", help="directory to keep (default: a temporary one, removed at the end)")
    parser.add_argument("--appendonly", action="store_true", help="log every write to the directory")
    parser.add_argument(
        "--linger-s",
        type=_linger_s,
        default=0.0,
        help="after SIGTERM, serve until no client is connected, for at most this long; a second signal ends it (0)",
    )
    parser.add_argument(
        "--no-password",
        action="store_true",
        help="let every user of this machine in, but refuse the commands that could write files as you "
        "(default: the URL has a random password)",
    )
    options = parser.parse_args(arguments)

    wakeups, wake = os.pipe()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        os.write(wake, b".")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    try:
        config = {"appendonly": "yes"} if options.appendonly else {}
        password = "" if options.no_password else None
        with EmbeddedServer(port=options.port, directory=options.dir, config=config, password=password) as server:
            print(server.url, flush=True)
            while server.is_running:
                if _is_signalled(wakeups, _SERVER_CHECK_S):
                    os.read(wakeups, 1)
                    _linger(server, options.linger_s, wakeups)
                    return 0
            raise ServerEndedError("by itself", server.exit_code or 0, server.last_words)
    except EmbeddedServerError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        if isinstance(error, ServerEndedError) and error.exit_code < 0:
            _end_by(-error.exit_code)
        return 1


def _end_by(number: int) -> None:
    with contextlib.suppress(OSError):
        # SIGKILL has no handler.
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _linger_s(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= _MOST_LINGER_S:
        raise argparse.ArgumentTypeError(f"{text}; allowed: seconds from 0 to {_MOST_LINGER_S:g}")
    return seconds


def _linger(server: EmbeddedServer, linger_s: float, wakeups: int) -> None:
    """Serve until no client is connected: processes that stop at the same time still requeue and deregister."""
    until = time.monotonic() + linger_s
    with Redis.from_url(server.url, socket_timeout=1.0, retry=Retry(NoBackoff(), 0)) as client:
        while time.monotonic() < until and server.is_running and _is_used(client):
            if _is_signalled(wakeups, _CLIENTS_CHECK_S):
                return


def _is_signalled(wakeups: int, wait_s: float) -> bool:
    """Whether a signal comes within ``wait_s`` seconds."""
    # Not `select.select`, which takes no file above 1023.
    poll = select.poll()
    poll.register(wakeups, select.POLLIN)
    return bool(poll.poll(wait_s * 1000))


def _is_used(client: Redis) -> bool:
    """Whether others are connected; a server that does not answer in time is not one that nobody uses."""
    try:
        return bool(client.info("clients")["connected_clients"] > 1)
    except RedisError:
        return True


if __name__ == "__main__":
    sys.exit(main())
