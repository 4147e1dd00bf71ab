"""Run an embedded Redis server in the foreground: `python -m orchestrator.embedded --port 6379`."""

import argparse
import os
import select
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from orchestrator.embedded.errors import EmbeddedServerError
from orchestrator.embedded.server import EmbeddedServer

_SERVER_CHECK_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. The exit code is 1 if the server cannot start, or ends by itself."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.embedded",
        description="Run a Redis server on loopback until SIGTERM or Ctrl-C.",
    )
    parser.add_argument("--port", type=int, help="port to listen on (default: a free one)")
    parser.add_argument("--dir", help="directory to keep (default: a temporary one, removed at the end)")
    parser.add_argument("--appendonly", action="store_true", help="log every write to the directory")
    options = parser.parse_args(arguments)

    wakeups, wake = os.pipe()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        os.write(wake, b".")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    try:
        config = {"appendonly": "yes"} if options.appendonly else {}
        with EmbeddedServer(port=options.port, directory=options.dir, config=config) as server:
            print(server.url, flush=True)
            while server.is_running:
                if select.select([wakeups], [], [], _SERVER_CHECK_S)[0]:
                    return 0
            raise EmbeddedServerError(f"the server ended by itself: {server.last_words}")
    except EmbeddedServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
