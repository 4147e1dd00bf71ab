"""Named leases, elections, semaphores and pools."""
