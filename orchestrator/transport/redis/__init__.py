"""What the transport asks of Redis: connections, the broker, scripts."""
