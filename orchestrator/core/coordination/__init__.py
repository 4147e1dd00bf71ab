"""The rules of leases, elections, ballots, barriers and distribution."""
