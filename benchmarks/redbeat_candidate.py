"""A beat with RedBeat's lock, run with the interpreter of the peers: says by a datagram that it has the lock.

``python redbeat_candidate.py URL ADDRESS LOCK_S``; with a ``LOCK_S`` of 0, the lock lasts as long as by default.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from types import SimpleNamespace

from celery import Celery
from redbeat import RedBeatScheduler
from redbeat.schedulers import acquire_distributed_beat_lock

url, address, lock_s = sys.argv[1:]
app = Celery("redbeat-candidate", broker=url, set_as_current=False)
app.conf.redbeat_redis_url = url
if int(lock_s):
    # By default, a lock lasts five times as long as this, which is 300 s.
    app.conf.beat_max_loop_interval = 1
    app.conf.redbeat_lock_timeout = int(lock_s)
scheduler = RedBeatScheduler(app=app, lazy=True)
# What it does when a beat starts.
acquire_distributed_beat_lock(SimpleNamespace(scheduler=scheduler))
reports = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
reports.sendto(str(os.getpid()).encode(), address)
while True:
    time.sleep(min(scheduler.tick(), 1))
