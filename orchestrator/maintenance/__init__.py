"""The monitor manager's work: sweeps, retention, checks."""
