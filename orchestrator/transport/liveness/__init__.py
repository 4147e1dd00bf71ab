"""Who is alive: incarnations, leases, heartbeats, sweeps."""
