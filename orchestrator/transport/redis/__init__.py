"""Redis, as the transport uses it: connections, the broker, scripts."""
