"""The worker's end of its watchdog process (see heart.py): starts it, reports alive to it, logs its errors, ends it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import Any

from redis import SSLConnection, UnixDomainSocketConnection

from orchestrator.core.deliveries.death import DeathReason
from orchestrator.core.keys import Keys
from orchestrator.core.log import get_logger
from orchestrator.supervisor.reading.variables import TREE_VARIABLE
from orchestrator.transport.liveness import heart
from orchestrator.transport.liveness.proof import proof_of_death
from orchestrator.transport.options import Options
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.commands import Call
from orchestrator.transport.redis.inherited_descriptors import INHERITED
from orchestrator.transport.redis.scripts import source

logger = get_logger(__name__)

#: A watchdog process that ends although its worker lives is started again, after this long at the earliest.
_AGAIN_AFTER_S = 5.0

#: The reporter, in the record of deaths.
_BY = "heart"

#: Bytes of its standard error that are logged with one report.
_MOST_ERRORS = 8192

#: From this many heartbeats without a report on, the watchdog process may renew the lease.
_LATE_FACTOR = 1.5


class HeartLink:
    """One incarnation's watchdog process. Without effect where none can run, in a forked child, and once stopped."""

    def __init__(self, keys: Keys, options: Options, incarnation: str, oom_file: Path | None) -> None:
        self._keys = keys
        self._options = options
        self._incarnation = incarnation
        self._oom_file = oom_file
        self._pid = 0
        self._pipe = -1
        #: Its standard error.
        self._errors = -1
        self._owner = os.getpid()
        self._orders: bytes | None = None
        #: Whether the orders are still to be sent.
        self._is_behind = False
        self._started_at = float("-inf")
        #: A worker that leaves stops it while a heartbeat may be under way in another thread.
        self._lock = threading.Lock()
        self._is_stopped = False

    def follow(self, connection: Any, name: str, server: str) -> None:
        """Have it connect to where the worker is connected now; starts it if need be."""
        if not (self._options.heart and can_run()):
            return
        try:
            orders = json.dumps(self._orders_for(connection, name, server)._asdict()).encode() + b"\n"
        except Exception as error:  # noqa: BLE001
            # A provider of credentials is the user's, and a heartbeat must not depend on the watchdog.
            logger.warning("watchdog process of %s not updated: %s", self._incarnation, error)
            return
        with self._lock:
            if not self._is_stopped:
                self._orders, self._is_behind = orders, True
                self._send()

    def report_alive(self) -> None:
        """Report that the worker's threads run."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            if self._orders is not None:
                self._send()
                self._log_errors()

    def stop(self) -> None:
        """End it: the incarnation has ended, or is about to end."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._is_stopped, self._orders = True, None
            self._close()

    def _orders_for(self, connection: Any, name: str, server: str) -> heart.Orders:
        k, o = self._keys, self._options
        death = proof_of_death(k, self._incarnation, DeathReason.KILLED, by=_BY)
        pulse = commands.renew_lease(k, self._incarnation)
        return heart.Orders(
            parent=os.getpid(),
            supervisor=os.getppid() if os.environ.get(TREE_VARIABLE) else -1,
            late_s=_LATE_FACTOR * o.heartbeat_s,
            lease_s=o.lease_s,
            name=f"{name}/heart",
            server=server,
            pulse=_eval(pulse),
            death=_eval(death),
            reason_at=len(_eval(death)) - len(death[2]) + commands.FENCE_REASON_AT,
            oom=DeathReason.OOM.value,
            oom_file="" if self._oom_file is None else str(self._oom_file),
            **_endpoint(connection),
        )

    def _send(self) -> None:
        """Send the orders if they are still to be sent, else a report; to a new process if the last one has ended."""
        if self._pipe >= 0 and not self._write(self._orders if self._is_behind and self._orders else b'"."\n'):
            self._log_errors()
            logger.warning(
                "watchdog process %d of %s ended (%s); starting another", self._pid, self._incarnation, self._close()
            )
        if self._pipe < 0 and monotonic() - self._started_at >= _AGAIN_AFTER_S:
            self._start()

    def _write(self, line: bytes) -> bool:
        """Whether the process may go on: it has the line, or can have it next time."""
        try:
            if os.write(self._pipe, line) < len(line):
                # The rest of a line that it has half of cannot follow later lines.
                return False
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._is_behind = self._is_behind and line != self._orders
        return True

    def _log_errors(self) -> None:
        with contextlib.suppress(OSError):
            for line in os.read(self._errors, _MOST_ERRORS).decode("utf-8", "replace").splitlines():
                logger.warning("watchdog process %d of %s: %s", self._pid, self._incarnation, line)

    def _start(self) -> None:
        self._started_at = monotonic()
        self._owner = os.getpid()
        try:
            self._spawn()
        except (OSError, NotImplementedError) as error:
            logger.warning("watchdog process of %s not started: %s", self._incarnation, error)
            self._orders = None
            return
        self._is_behind = True
        self._send()

    def _spawn(self) -> None:
        theirs, ours = os.pipe()
        errors, their_errors = os.pipe()
        try:
            # Not subprocess: gevent replaces it by a fork of its own, and other libraries by theirs.
            self._pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", heart.__file__, str(os.getpid()), self._incarnation],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, their_errors, 2),
                ],
                # Stop signals are the worker's. It may take its time, and is watched until it has stopped.
                setsigmask=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT],
            )
        except BaseException:
            os.close(ours)
            os.close(errors)
            raise
        finally:
            os.close(theirs)
            os.close(their_errors)
        self._pipe, self._errors = ours, errors
        for descriptor in (ours, errors):
            os.set_blocking(descriptor, False)
            INHERITED.watch_file(descriptor)

    def _close(self) -> str:
        """End the process; returns how it ended."""
        if self._pipe < 0:
            return ""
        for descriptor in (self._pipe, self._errors):
            INHERITED.forget_file(descriptor)
            os.close(descriptor)
        self._pipe = self._errors = -1
        try:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid == 0:
                os.kill(self._pid, signal.SIGKILL)
                _, status = os.waitpid(self._pid, 0)
        except OSError:
            # Somebody else has waited for it. Its id may be another process' by now.
            return "exit status unknown"
        code = os.waitstatus_to_exitcode(status)
        return f"signal {-code}" if code < 0 else f"exit status {code}"


def _eval(call: Call) -> list[str]:
    """A script with its text, as the heart loads none."""
    script, keys, args = call
    return ["EVAL", source(script).decode(), str(len(keys)), *keys, *map(str, args)]


def can_run() -> bool:
    """Whether this interpreter can start another one by its name."""
    named = Path(sys.executable).name if sys.executable else ""
    frozen = getattr(sys, "frozen", False)
    return hasattr(os, "posix_spawn") and named.startswith(("python", "pypy")) and not frozen


def _endpoint(connection: Any) -> dict[str, Any]:
    """The address and the options of this redis-py connection."""
    found: dict[str, Any] = {"database": int(connection.db or 0), "auth": _credentials(connection)}
    if isinstance(connection, UnixDomainSocketConnection):
        return {**found, "address": ["unix", connection.path]}
    host, port = connection._sock.getpeername()[:2]
    found["address"] = ["tcp", host, port]
    if isinstance(connection, SSLConnection):
        found["tls"] = _tls(connection)
    return found


def _tls(of: SSLConnection) -> dict[str, Any]:
    return {
        "check_hostname": bool(of.check_hostname),
        "verify_mode": int(of.cert_reqs),
        "certfile": of.certfile,
        "keyfile": of.keyfile,
        "password": of.certificate_password,
        "cafile": of.ca_certs,
        "capath": of.ca_path,
        "cadata": of.ca_data,
        "server_name": of.host,
    }


def _credentials(connection: Any) -> list[str]:
    provider = connection.credential_provider
    given = provider.get_credentials() if provider is not None else (connection.username, connection.password)
    known = [part for part in given if part]
    return [str(part) for part in known]
