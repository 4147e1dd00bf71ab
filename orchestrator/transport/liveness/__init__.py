"""Liveness: incarnations, leases, heartbeats, sweeps."""
