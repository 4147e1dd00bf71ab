"""A Redis server that lives exactly as long as its owner."""

import os
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import quote

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from orchestrator.embedded.binary import find_server_binary
from orchestrator.embedded.configuration import render_configuration
from orchestrator.embedded.guard import CONFIGURATION_FILE, LOG_FILE
from orchestrator.embedded.guard_link import GuardLink
from orchestrator.embedded.port_taken import EmbeddedServerError, PortTakenError, ServerEndedError
from orchestrator.embedded.ports import LOOPBACK, free_port

_READY_TIMEOUT_S = 30.0
_READY_POLL_S = 0.005
_PORT_TRIES = 20
_LOG_TAIL_LINES = 5


class EmbeddedServer:
    """A real redis-server on loopback, for demos, tests and development.

    It keeps nothing on disk unless configured to (`config={"appendonly": "yes"}`). A guard process ends it
    and removes its temporary directory when this process stops it, exits or is killed. It belongs to the
    process that started it: a forked child may connect to it but not control it, and does not keep it alive.

    Args:
        port: the loopback port; without it, a free one is chosen at the first start and kept.
        directory: where the server keeps its files. It is made if need be and never removed. Without it, the
            server gets a temporary directory for as long as it is not stopped.
        config: directives for its redis.conf, values written as there (an empty one stands for `""`).
        binary: the server to run, instead of the one `find_server_binary` finds.
        password: what clients must know; it is part of `url`. Without it, a random one. An empty one lets every user of
            this machine in; then the commands that could write files as the server's owner are refused.

    Every method raises `EmbeddedServerError` when it cannot do its work, or when called in a forked child.
    """

    def __init__(
        self,
        port: int | None = None,
        directory: str | os.PathLike[str] | None = None,
        config: Mapping[str, str] = MappingProxyType({}),
        binary: str | os.PathLike[str] | None = None,
        password: str | None = None,
    ) -> None:
        self._password = secrets.token_hex(16) if password is None else password
        self._port = port
        self._given_directory = None if directory is None else Path(directory).absolute()
        self._config = dict(config)
        self._binary = binary
        self._link: GuardLink | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port that the server listens on; known after the first start."""
        if self._port is None:
            raise EmbeddedServerError("the embedded Redis server has no port yet: it was never started")
        return self._port

    @property
    def url(self) -> str:
        """The URL of database 0, for redis-py, Celery and kombu."""
        login = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{login}{LOOPBACK}:{self.port}/0"

    @property
    def directory(self) -> Path:
        """The running server's directory."""
        return self._guarded().directory

    @property
    def log_path(self) -> Path:
        """The server's log file."""
        return self.directory / LOG_FILE

    @property
    def last_words(self) -> str:
        """The last lines of the server's log, joined to one line."""
        return _last_lines(self.log_path.read_text(errors="replace"))

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        pid = self._guarded().ask("state").pid
        if pid is None:
            raise EmbeddedServerError(f"the embedded Redis server on port {self.port} is not running")
        return pid

    @property
    def guard_pid(self) -> int:
        """The process id of the guard, which outlives every `kill` and `restart`."""
        return self._guarded().pid

    @property
    def is_running(self) -> bool:
        """Whether its process exists; a paused one does."""
        return self._link is not None and self._guarded().ask("state").pid is not None

    @property
    def exit_code(self) -> int | None:
        """The exit code of the server once it has ended; the negative of a signal that ended it."""
        return self._guarded().ask("state").exit_code

    def start(self) -> Self:
        """Start the server; returns when it answers and has loaded the data in its directory.

        After `kill` it comes back on the same port with the same directory.

        Raises:
            PortTakenError: something else listens on the given (or kept) port.
            EmbeddedServerError: it is running already, does not start, or does not answer in time.
        """
        fresh = self._link is None
        if fresh:
            if self._given_directory is not None:
                self._make_directory(self._given_directory)
            self._link = GuardLink(find_server_binary(self._binary), self._given_directory)
        elif self.is_running:
            raise EmbeddedServerError(f"the embedded Redis server on port {self.port} is running already")
        try:
            self._start_on_some_port()
        except BaseException:
            if fresh:
                self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server gracefully and remove its temporary directory. Stopping twice does no harm.

        In a forked child this only lets go of the server, which goes on for its owner.
        """
        link, self._link = self._link, None
        if link is None:
            return
        if link.owner_pid != os.getpid():
            link.drop()
            return
        link.close()
        if self._given_directory is None:
            # The guard has removed it, unless the guard was killed.
            shutil.rmtree(link.directory, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL the server, as a crash would end it. Its directory and its port are kept for `restart`."""
        self._guarded().ask("kill")

    def restart(self) -> None:
        """Start it again, on the same port and directory; if it still runs, it is ended gracefully first."""
        self._guarded().ask("halt")
        self.start()

    def pause(self) -> None:
        """SIGSTOP the server: connections stay open, and nothing is answered until `resume`."""
        self._guarded().ask("pause")

    def resume(self) -> None:
        """SIGCONT the server after `pause`."""
        self._guarded().ask("resume")

    def _guarded(self) -> GuardLink:
        if self._link is None:
            raise EmbeddedServerError("the embedded Redis server is not started")
        if self._link.owner_pid != os.getpid():
            raise EmbeddedServerError(
                f"the embedded Redis server belongs to process {self._link.owner_pid}, "
                f"and this is its child {os.getpid()}"
            )
        return self._link

    def _make_directory(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedServerError(f"cannot use {directory} for the embedded Redis server: {error}") from error

    def _start_on_some_port(self) -> None:
        tries = _PORT_TRIES if self._port is None else 1
        for tries_left in reversed(range(tries)):
            port = self._port if self._port is not None else free_port()
            try:
                self._start_on(port)
            except PortTakenError:
                if tries_left == 0:
                    raise
            else:
                self._port = port
                return

    def _start_on(self, port: int) -> None:
        link = self._guarded()
        configuration = render_configuration(port, link.directory, self._config, self._password)
        _write_private(link.directory / CONFIGURATION_FILE, configuration)
        log_start_bytes = self.log_path.stat().st_size if self.log_path.exists() else 0
        link.ask("start")
        deadline_s = time.monotonic() + _READY_TIMEOUT_S
        while not self._answers(port):
            state = link.ask("state")
            if state.pid is None:
                raise self._start_failure(port, state.exit_code, log_start_bytes)
            if time.monotonic() > deadline_s:
                link.ask("kill")
                raise EmbeddedServerError(
                    f"the embedded Redis server on port {port} did not answer within {_READY_TIMEOUT_S:g} s"
                )
            time.sleep(_READY_POLL_S)

    def _answers(self, port: int) -> bool:
        with Redis(
            host=LOOPBACK,
            port=port,
            password=self._password or None,
            socket_timeout=1.0,
            socket_connect_timeout=1.0,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            try:
                client.ping()
                # The process that had the port before may answer, while our server still fails to bind.
                return bool(client.info("server")["process_id"] == self._guarded().ask("state").pid)
            except (RedisError, KeyError):
                return False

    def _start_failure(self, port: int, exit_code: int | None, log_start_bytes: int) -> EmbeddedServerError:
        said = self.log_path.read_bytes()[log_start_bytes:].decode(errors="replace")
        if "Address already in use" in said or "Failed listening on port" in said:
            return PortTakenError(f"cannot listen on {LOOPBACK}:{port}: is another server running there?")
        return ServerEndedError("at once", exit_code or 0, _last_lines(said))


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read: it holds the password."""
    try:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        raise EmbeddedServerError(f"{path} cannot be written: {error.strerror}") from error


def _last_lines(log: str) -> str:
    return " | ".join(line.strip() for line in log.splitlines()[-_LOG_TAIL_LINES:] if line.strip())
