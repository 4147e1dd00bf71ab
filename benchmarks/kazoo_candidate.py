"""A candidate in an election of kazoo, run with the interpreter of the peers: says by a datagram that it leads."""

from __future__ import annotations

import os
import socket
import sys
import time

from kazoo.client import KazooClient

hosts, address = sys.argv[1:]
reports = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
client = KazooClient(hosts=hosts, timeout=10.0)
client.start()


def lead() -> None:
    """Say so, and lead until killed."""
    reports.sendto(str(os.getpid()).encode(), address)
    time.sleep(100_000)


client.Election("/bench", str(os.getpid())).run(lead)
