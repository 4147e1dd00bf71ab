"""A Celery app that uses the transport alone, without an Orchestrator. Its tasks record what they do in Redis."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import threading
import time

import redis
from celery import Celery

URL = os.environ.get("ORCHESTRATOR_BROKER_URL", "redis://127.0.0.1:6379/0")

app = Celery("bare", broker=URL, set_as_current=False)
app.conf.update(
    broker_transport="orchestrator.transport:Transport",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    task_routes={"early": {"queue": "early"}},
    worker_soft_shutdown_timeout=float(os.environ.get("BARE_SOFT_SHUTDOWN_S", "0")),
    worker_cancel_long_running_tasks_on_connection_loss=bool(os.environ.get("BARE_CANCELS")),
    worker_prefetch_multiplier=int(os.environ.get("BARE_PREFETCH", "4")),
)

app.conf.broker_transport_options = json.loads(os.environ.get("BARE_OPTIONS", "{}"))
if "BARE_LEASE_S" in os.environ:
    app.conf.broker_transport_options["lease_s"] = float(os.environ["BARE_LEASE_S"])

# Children of a pool inherit this, and so know the process to kill.
os.environ["BARE_MAIN_PID"] = str(os.getpid())

# Longer than any task here waits; redis-py's default is 5 s.
record = redis.Redis.from_url(os.environ.get("BARE_RECORD_URL", URL), socket_timeout=90)


def began(name: str) -> int:
    """Record a start, with the process that made it."""
    record.rpush("test:began", f"{name} {os.getpid()}")
    return int(record.hincrby("test:runs", name, 1))


@app.task(name="note", shared=False)
def note(name: str) -> None:
    """Run, and be seen."""
    began(name)
    record.hincrby("test:done", name, 1)


@app.task(name="hold", shared=False)
def hold(name: str) -> None:
    """Run until the test lets go: a push to ``test:go:NAME``, at most 60 s."""
    began(name)
    record.blpop([f"test:go:{name}"], timeout=60)
    record.hincrby("test:done", name, 1)


@app.task(name="once_deadly", shared=False)
def once_deadly(name: str) -> None:
    """Kills its process the first time it runs."""
    if began(name) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    record.hincrby("test:done", name, 1)


@app.task(name="leaves_once", shared=False)
def leaves_once(name: str) -> None:
    """Leaves the interpreter the first time it runs."""
    if began(name) == 1:
        raise SystemExit(3)
    record.hincrby("test:done", name, 1)


@app.task(name="leaves", shared=False)
def leaves(name: str) -> None:
    """Leaves the interpreter whenever it runs."""
    began(name)
    raise SystemExit(3)


@app.task(name="deadly", shared=False)
def deadly(name: str) -> None:
    """Kills its process whenever it runs."""
    began(name)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="leaves_child", shared=False)
def leaves_child(how: str) -> None:
    """Start a child that outlives everything here, as a daemon that a task starts does, and go on for a minute."""
    if how == "fork":
        pid = os.fork()
        if pid == 0:
            _wait_for_ever()
    elif how == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=_wait_for_ever)
        process.start()
        pid = process.pid or 0
    else:
        pid = subprocess.Popen(["sleep", "600"], close_fds=False).pid
    record.rpush("test:child", pid)
    hold(how)


def _wait_for_ever() -> None:
    try:
        threading.Event().wait(600)
    finally:
        os._exit(0)


@app.task(name="stops_itself", shared=False)
def stops_itself(name: str) -> None:
    """Sends its own process SIGTERM whenever it runs."""
    began(name)
    os.kill(os.getpid(), signal.SIGTERM)
    record.blpop(["test:never"], timeout=20)


@app.task(name="nap", shared=False)
def nap(name: str) -> None:
    """Runs for a moment, and notes what ran beside it."""
    began(name)
    record.sadd("test:running", name)
    record.blpop(["test:never"], timeout=0.2)
    beside = {str(other, "utf-8") for other in record.smembers("test:running") if isinstance(other, bytes)} - {name}
    if beside:
        record.hset("test:beside", name, ",".join(sorted(beside)))
    record.srem("test:running", name)
    record.hincrby("test:done", name, 1)


def _kill_worker() -> None:
    os.kill(int(os.environ["BARE_MAIN_PID"]), signal.SIGKILL)


@app.task(name="kill_worker", shared=False)
def kill_worker(name: str) -> None:
    """Kills the whole worker, a moment after others have begun beside it."""
    began(name)
    record.blpop(["test:never"], timeout=0.2)
    record.delete("test:running")
    _kill_worker()


@app.task(name="kill_worker_at_once", shared=False)
def kill_worker_at_once(name: str) -> None:
    """Kills the whole worker before anybody knows that this runs."""
    _kill_worker()


@app.task(name="early_deadly", acks_late=False, shared=False)
def early_deadly(name: str) -> None:
    """Acknowledged before it runs, and then kills its process."""
    deadly(name)


@app.task(name="early_hold", acks_late=False, shared=False)
def early_hold(name: str) -> None:
    """Acknowledged before it runs, and then as long as the test likes."""
    hold(name)


@app.task(name="freeze", shared=False)
def freeze(name: str) -> None:
    """Let no thread of this process run for 1.2 s, as a long garbage collection or a bad C extension does."""
    began(name)
    # Unlike CDLL, PyDLL keeps the interpreter's lock while it is in C.
    ctypes.PyDLL(None).usleep(1_200_000)
    record.hincrby("test:done", name, 1)


@app.task(name="hang", shared=False)
def hang(name: str) -> None:
    """Hold the interpreter's lock for a minute, and do nothing."""
    began(name)
    ctypes.PyDLL(None).sleep(60)


@app.task(name="compute", shared=False)
def compute(name: str, seconds: float = 4.0) -> None:
    """Hold the interpreter's lock for so long while it uses the processor, as a bad regular expression does."""
    began(name)
    million = 1_000_000
    before = time.thread_time()
    # The built-in sum of a range runs in C, and lets no other thread run meanwhile.
    sum(range(million))
    sum(range(int(million * seconds / (time.thread_time() - before))))
    record.hincrby("test:done", name, 1)


@app.task(name="early", acks_late=False, shared=False)
def early(name: str) -> None:
    """Acknowledged before it runs."""
    note(name)
