"""Watchdog process (*heart*): renews the worker's lease while its threads are starved; reports its exit.

Erlang's `heart` is a port program beside the runtime; this is one beside a Python worker. `heart_link` starts it as a
script, made of the standard library alone. While the worker reports alive in time, it does nothing. While the worker's
interpreter is blocked (a long regular expression, a C extension) and uses the processor, it renews the lease. When the
worker's process has ended, it records the death in Redis at once. It does not renew the lease of a worker that is
stopped, or hangs without using the processor.

Orders, and `"."` for "alive", come as lines of JSON on standard input. What Redis refuses is reported as lines on
standard error, which the worker logs. It ends with the worker, however that ends.
"""

import contextlib
import json
import os
import select
import socket
import sys
import time
from typing import Any, NamedTuple

#: Longest wait for Redis, and between two looks whether the worker is still there where the kernel does not tell.
_REDIS_TIMEOUT_S = 5.0
_LOOK_EVERY_S = 1.0
_LOOK_WITHOUT_PIDFD_S = 0.1

#: How long the final writes of a process that has ended may take to Redis.
_FINAL_WRITES_S = 0.1

#: Between two samples of the worker's processor time while it does not report.
_SAMPLE_EVERY_S = 0.25

#: A thread that has used this many clock ticks (of 10 ms) within this time is at work. One that only waits for the
#: interpreter's lock wakes up every 5 ms and uses a tenth of that.
_WORKING_TICKS = 2
_WORKING_WITHIN_S = 0.5

#: How long the supervisor of its tree has to record the death, as it alone knows how the process has ended. With the
#: other times, messages still run elsewhere within two seconds where the supervisor is stopped.
_SUPERVISOR_S = 1.0

#: Longest time for which a heart then tries to report the death. If Redis is away for longer, a sweep
#: concludes the death from the closed connections.
_REPORT_S = 2.0

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0

#: Error replies of a server that will accept the command later.
_TRANSIENT = ("LOADING", "READONLY", "MASTERDOWN", "BUSY", "NOREPLICAS", "MISCONF")


class Orders(NamedTuple):
    """The worker's orders; sent again when any of them changes."""

    parent: int
    #: Without a report for this long, the worker is late.
    late_s: float
    #: The connection is checked twice as often as this.
    lease_s: float
    #: The address that the worker is connected to: ``["tcp", host, port]`` or ``["unix", path]``.
    address: list[Any]
    #: The name its connection has in Redis, and the run of the server that the worker knows.
    name: str
    server: str
    #: Commands: lists of text. To the pulse the heart adds its connection.
    pulse: list[str]
    death: list[str]
    #: Which argument of the latter is the reason, and what it is if the kernel has killed for want of memory.
    reason_at: int
    oom: str
    oom_file: str
    database: int
    #: Password, or user and password; empty if Redis asks for none.
    auth: list[str]
    #: The worker's parent, if that is the supervisor of a tree; else -1.
    supervisor: int = -1
    tls: dict[str, Any] | None = None


class RedisAway(Exception):
    """Redis cannot be reached, or does not answer."""


class Refused(RedisAway):
    """Redis answered with an error. Its text is left out: it may repeat the arguments, and so a password."""

    def __init__(self, command: str, reply: str) -> None:
        self.code = reply[1:].partition(" ")[0]
        super().__init__(f"Redis refuses {command} ({self.code})")

    @property
    def is_transient(self) -> bool:
        """Whether the server will accept the command later."""
        return self.code in _TRANSIENT


class Connection:
    """A connection to Redis that speaks RESP2."""

    def __init__(self, orders: Orders) -> None:
        try:
            self.sock = self._open(orders)
        except OSError as error:
            raise RedisAway(str(error)) from error
        self._buffer = b""
        try:
            if orders.auth:
                self.call("AUTH", *orders.auth)
            if orders.database:
                self.call("SELECT", str(orders.database))
            self.call("CLIENT", "SETNAME", orders.name)
            #: As in the worker's own heartbeat: id, name, run of the server.
            self.ident = f"{self.call('CLIENT', 'ID')} {orders.name} {orders.server}".rstrip()
        except RedisAway:
            self.close()
            raise

    @staticmethod
    def _open(orders: Orders) -> Any:
        kind, *where = orders.address
        if kind == "unix":
            sock: Any = socket.socket(socket.AF_UNIX)
            sock.settimeout(_REDIS_TIMEOUT_S)
            sock.connect(where[0])
            return sock
        sock = socket.create_connection((where[0], where[1]), timeout=_REDIS_TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock if orders.tls is None else _with_tls(sock, orders.tls)

    def call(self, *command: str) -> str:
        """Run one command.

        Raises:
            Refused: the reply is an error.
            RedisAway: there is no reply.
        """
        parts = [part.encode("utf-8", "surrogateescape") for part in command]
        head = b"*%d\r\n" % len(parts)
        try:
            self.sock.sendall(head + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
            reply = self._reply()
        except OSError as error:
            raise RedisAway(str(error)) from error
        if reply.startswith("-"):
            raise Refused(command[0], reply)
        return reply

    def _reply(self) -> str:
        line = self._line()
        if line[:1] == b"$" and int(line[1:]) >= 0:
            while len(self._buffer) < int(line[1:]) + 2:
                self._receive()
            text, self._buffer = self._buffer[: int(line[1:])], self._buffer[int(line[1:]) + 2 :]
            return text.decode("utf-8", "replace")
        if line[:1] == b"*":
            return " ".join([self._reply() for _ in range(int(line[1:]))])
        return line.decode("utf-8", "replace") if line[:1] == b"-" else line[1:].decode("utf-8", "replace")

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _receive(self) -> None:
        received = self.sock.recv(65536)
        if not received:
            raise ConnectionResetError("closed by Redis")
        self._buffer += received

    def close(self) -> None:
        """Close it."""
        self.sock.close()


def _with_tls(sock: Any, tls: dict[str, Any]) -> Any:
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = tls["check_hostname"]
    context.verify_mode = ssl.VerifyMode(tls["verify_mode"])
    if tls["certfile"] or tls["keyfile"]:
        context.load_cert_chain(tls["certfile"], tls["keyfile"], tls["password"])
    if tls["cafile"] or tls["capath"] or tls["cadata"]:
        context.load_verify_locations(tls["cafile"], tls["capath"], tls["cadata"])
    return context.wrap_socket(sock, server_hostname=tls["server_name"])


class ProcessorTime:
    """Whether a process that does not report is at work, by the processor time of its threads (Linux)."""

    def __init__(self, pid: int) -> None:
        self._tasks = f"/proc/{pid}/task"
        self._before: list[tuple[float, dict[str, int]]] = []

    def forget(self) -> None:
        """Drop the samples: the process has reported."""
        self._before.clear()

    def is_at_work(self, now: float) -> bool:
        """Look; whether some thread has worked since an earlier look that is long enough ago."""
        ticks = self._ticks()
        old = [sample for sample in self._before if now - sample[0] >= _WORKING_WITHIN_S]
        self._before = [*old[-1:], *(sample for sample in self._before if sample not in old), (now, ticks)]
        if not old:
            return False
        then = old[-1][1]
        return any(used - then.get(thread, used) >= _WORKING_TICKS for thread, used in ticks.items())

    def _ticks(self) -> dict[str, int]:
        found = {}
        with contextlib.suppress(OSError), os.scandir(self._tasks) as threads:
            for thread in threads:
                with contextlib.suppress(OSError, ValueError, IndexError):
                    # After the name, which may contain anything: state is field 3, utime and stime are 14 and 15.
                    fields = _read(f"{thread.path}/stat").rpartition(b")")[2].split()
                    found[thread.name] = int(fields[11]) + int(fields[12])
        return found


def _read(path: str) -> bytes:
    """A small file of the kernel's."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 65536)
    finally:
        os.close(descriptor)


class Heart:
    """The watchdog of one worker."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._orders: Orders | None = None
        self._input = b""
        self._reported_at = time.monotonic()
        self._renewed_at = float("-inf")
        self._used_at = time.monotonic()
        self._connection: Connection | None = None
        self._pause_s = 0.0
        self._try_at = 0.0
        self._refusal = ""
        self._work = ProcessorTime(parent)
        self._oom_before: int | None = None
        self._pidfd = -1
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(parent)

    def beat(self) -> None:
        """Watch until the worker has ended, or closes its end of the pipe."""
        while True:
            watched = [0, *([self._pidfd] if self._pidfd >= 0 else []), *self._socket()]
            readable, _, _ = select.select(watched, [], [], self._wait_s())
            if 0 in readable and not self._take_orders():
                return
            if self._has_ended(0):
                self._report_death()
                return
            if self._connection is not None and self._connection.sock in readable:
                # Nothing was asked, so nothing is answered: it was closed.
                self._drop()
                self._try_at = 0.0
            if self._orders is not None:
                self._do(self._orders)

    def _has_ended(self, wait_s: float) -> bool:
        """Whether the worker's process has ended. It is our parent until then, so its id cannot be a reused one."""
        until = time.monotonic() + wait_s
        while os.getppid() == self._parent:
            left_s = until - time.monotonic()
            if self._pidfd >= 0:
                return bool(select.select([self._pidfd], [], [], max(0.0, left_s))[0]) or os.getppid() != self._parent
            if left_s <= 0:
                return False
            time.sleep(_LOOK_WITHOUT_PIDFD_S)
        return True

    def _socket(self) -> list[Any]:
        return [] if self._connection is None else [self._connection.sock]

    def _wait_s(self) -> float:
        now, orders = time.monotonic(), self._orders
        if orders is None:
            return _LOOK_EVERY_S
        wait_s = _LOOK_EVERY_S if self._pidfd >= 0 else _LOOK_WITHOUT_PIDFD_S
        wait_s = min(wait_s, max(_SAMPLE_EVERY_S, self._reported_at + orders.late_s - now))
        if self._connection is None:
            wait_s = min(wait_s, max(0.0, self._try_at - now))
        return wait_s

    def _take_orders(self) -> bool:
        """Read orders and reports; whether the worker still holds its end of the pipe."""
        received = os.read(0, 65536)
        if not received:
            # A process that ends closes its files first. One that lives has become another program, or closed what it
            # did not know: that proves no death, and its connection will tell.
            if self._has_ended(_LOOK_EVERY_S):
                self._report_death()
            return False
        *lines, self._input = (self._input + received).split(b"\n")
        for line in lines:
            said = json.loads(line)
            self._reported_at = time.monotonic()
            self._work.forget()
            if said != ".":
                self._follow(Orders(**said))
            self._oom_before = self._oom_count()
        return True

    def _follow(self, orders: Orders) -> None:
        """Connect to where the worker is connected now, if that is elsewhere."""
        if orders != self._orders:
            self._orders = orders
            self._drop()
            self._pause_s = self._try_at = 0.0

    def _do(self, orders: Orders) -> None:
        now = time.monotonic()
        try:
            if self._connection is None:
                if now < self._try_at:
                    return
                self._connect(orders)
            elif now - self._reported_at > orders.late_s:
                if self._work.is_at_work(now) and now - self._renewed_at > orders.late_s / 2:
                    self._renew_lease(orders)
            elif now - self._used_at > orders.lease_s / 2:
                self._used_at = now
                self._connection.call("PING")
        except RedisAway as away:
            self._report_refusal(away)
            self._drop()

    def _report_refusal(self, away: RedisAway) -> None:
        """Write a refusal to standard error, once until the lease was renewed or the refusal is another."""
        if isinstance(away, Refused) and not away.is_transient and str(away) != self._refusal:
            self._refusal = str(away)
            with contextlib.suppress(OSError):
                os.write(2, f"{away}\n".encode())

    def _connect(self, orders: Orders) -> None:
        self._pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * self._pause_s))
        self._try_at = time.monotonic() + self._pause_s
        self._connection = Connection(orders)
        # Redis may have closed the connections of both: one that is open again is evidence of life.
        self._renew_lease(orders)
        self._pause_s = 0.0

    def _renew_lease(self, orders: Orders) -> None:
        if self._connection is not None:
            self._connection.call(*orders.pulse, self._connection.ident)
            self._renewed_at = self._used_at = time.monotonic()
            self._refusal = ""

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _oom_count(self) -> int | None:
        if self._orders is None or not self._orders.oom_file:
            return None
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in _read(self._orders.oom_file).splitlines():
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
        return None

    def _report_death(self) -> None:
        orders = self._orders
        if orders is None:
            return
        now = self._oom_count()
        if now is not None and self._oom_before is not None and now > self._oom_before:
            orders.death[orders.reason_at] = orders.oom
        # The worker's final writes over other connections (marks, acknowledgements) must not be overtaken.
        time.sleep(_FINAL_WRITES_S)
        self._leave_to(orders.supervisor)
        until = time.monotonic() + min(orders.lease_s, _REPORT_S)
        while time.monotonic() < until:
            try:
                if self._connection is None:
                    self._connection = Connection(orders)
                self._connection.call(*orders.death)
                return
            except Refused as refused:
                if not refused.is_transient:
                    return
            except RedisAway:
                pass
            self._drop()
            time.sleep(_LOOK_WITHOUT_PIDFD_S)

    def _leave_to(self, supervisor: int) -> None:
        """Give a supervisor time for the report, which kills this process first; only as long as it lives.

        It adopts what its children leave (Linux), so it is the parent now.
        """
        until = time.monotonic() + _SUPERVISOR_S
        while os.getppid() == supervisor and time.monotonic() < until:
            time.sleep(_LOOK_WITHOUT_PIDFD_S)


def main() -> None:
    """Watch the process whose id is the argument, which must be the parent."""
    # Stop signals are the worker's: a session of its own keeps them away (spawning cannot start one everywhere).
    with contextlib.suppress(OSError):
        os.setsid()
    os.closerange(3, 65536)
    # A worker that does not read must not block its watchdog.
    os.set_blocking(2, False)
    parent = int(sys.argv[1])
    if os.getppid() == parent:
        Heart(parent).beat()


if __name__ == "__main__":
    main()
