"""The worker's end of its heart (see heart.py): starting it, giving it word, and parting from it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from time import monotonic
from typing import Any

from redis import SSLConnection, UnixDomainSocketConnection

from orchestrator.core.death import DeathReason
from orchestrator.core.keys import Keys
from orchestrator.core.log import get_logger
from orchestrator.transport import heart
from orchestrator.transport.forks import INHERITED
from orchestrator.transport.options import Options
from orchestrator.transport.proof import REASON_AT, proof_of_death
from orchestrator.transport.scripts import source

logger = get_logger(__name__)

#: A heart that ends although its worker lives is started again, after so long at the earliest.
_AGAIN_AFTER_S = 5.0

#: Who has found out, in the record of deaths.
_BY = "heart"

#: A heartbeat that is late by so much more is in the heart's hands.
_LATE_FACTOR = 1.5


class HeartLink:
    """One incarnation's heart. For one thread at a time; without effect where no heart can run."""

    def __init__(self, keys: Keys, options: Options, incarnation: str, oom_file: Path | None) -> None:
        self._keys = keys
        self._options = options
        self._incarnation = incarnation
        self._oom_file = oom_file
        self._pid = 0
        self._pipe = -1
        self._owner = os.getpid()
        self._orders: bytes | None = None
        self._started_at = float("-inf")

    def follow(self, connection: Any, name: str, server: str) -> None:
        """Have the heart connect to where the worker is connected now; starts it if need be."""
        if not (self._options.heart and can_run()):
            return
        try:
            self._orders = json.dumps(self._orders_for(connection, name, server)._asdict()).encode() + b"\n"
        except Exception as error:  # noqa: BLE001
            # A provider of credentials is the user's, and a heartbeat must not depend on a heart.
            logger.debug("no heart for %s: %s", self._incarnation, error)
            return
        if not self._say(self._orders):
            self._start()

    def word(self) -> None:
        """Say that the worker's threads run."""
        if self._orders is not None and os.getpid() == self._owner and not self._say(b'"."\n'):
            self._start()

    def stop(self) -> None:
        """Part from it: the incarnation has ended by its own word, or is about to end."""
        self._orders = None
        if os.getpid() == self._owner:
            self._close()

    def _orders_for(self, connection: Any, name: str, server: str) -> heart.Orders:
        k, o = self._keys, self._options
        script, keys, args = proof_of_death(k, self._incarnation, DeathReason.KILLED, by=_BY)
        pulse = [k.leases, k.incarnation(self._incarnation)]
        return heart.Orders(
            parent=os.getpid(),
            late_s=_LATE_FACTOR * o.heartbeat_s,
            lease_s=o.lease_s,
            name=f"{name}/heart",
            server=server,
            pulse=["EVAL", source("pulse").decode(), "2", *pulse, self._incarnation],
            death=["EVAL", source(script).decode(), str(len(keys)), *keys, *map(str, args)],
            reason_at=3 + len(keys) + REASON_AT,
            oom=DeathReason.OOM.value,
            oom_file="" if self._oom_file is None else str(self._oom_file),
            **_endpoint(connection),
        )

    def _say(self, line: bytes) -> bool:
        """Whether there is a heart to hear it."""
        if self._pipe < 0:
            return False
        try:
            if os.write(self._pipe, line) < len(line):
                # It hears no more of us until it has caught up, and would then hear half a line.
                self._close()
                return False
        except BlockingIOError:
            pass
        except OSError:
            self._close()
            return False
        return True

    def _start(self) -> None:
        if self._orders is None or monotonic() - self._started_at < _AGAIN_AFTER_S:
            return
        self._started_at = monotonic()
        self._owner = os.getpid()
        try:
            self._spawn()
        except OSError as error:
            logger.debug("no heart for %s: %s", self._incarnation, error)
            self._orders = None
            return
        self._say(self._orders)

    def _spawn(self) -> None:
        listens, speaks = os.pipe()
        try:
            # Not subprocess: gevent replaces it by a fork of its own, and other libraries by theirs.
            self._pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", heart.__file__, str(os.getpid()), self._incarnation],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, listens, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                # Stop signals are the worker's. It may take its time, and is spoken for until it has stopped.
                setsid=True,
                setsigmask=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT],
            )
        except BaseException:
            os.close(speaks)
            raise
        finally:
            os.close(listens)
        os.set_blocking(speaks, False)
        self._pipe = speaks
        INHERITED.watch_file(speaks)

    def _close(self) -> None:
        pipe, self._pipe = self._pipe, -1
        if pipe < 0:
            return
        INHERITED.forget_file(pipe)
        os.close(pipe)
        with contextlib.suppress(OSError):
            # Somebody else may have waited for it; then there is no such process.
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def can_run() -> bool:
    """Whether this interpreter can start another one by its name."""
    named = Path(sys.executable).name if sys.executable else ""
    frozen = getattr(sys, "frozen", False)
    return hasattr(os, "posix_spawn") and named.startswith(("python", "pypy")) and not frozen


def _endpoint(connection: Any) -> dict[str, Any]:
    """Where and how this redis-py connection is connected."""
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
