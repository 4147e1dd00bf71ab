"""``celery -A APP leases | elections | pools | ballots | barriers``."""
