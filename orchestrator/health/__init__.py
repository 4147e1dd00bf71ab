"""Health of the processes on this host, for what restarts them (Kubernetes, systemd): ``orchestrator health``.

A worker writes what it knows of itself to a small file, every second, from a thread of its own; the probe reads it.
So the probe needs no app, no Redis and no password, and a broken broker does not look like a broken worker.
"""
