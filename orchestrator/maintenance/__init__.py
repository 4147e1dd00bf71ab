"""What the monitor manager does now and then: sweeps, retention, checks."""
