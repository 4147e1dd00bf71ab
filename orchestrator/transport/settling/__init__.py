"""The settlement of deliveries in Redis."""
