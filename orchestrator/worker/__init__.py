"""The worker's side: boot steps, execution, settlement."""
