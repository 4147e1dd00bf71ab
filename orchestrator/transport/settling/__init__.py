"""How a delivery ends in Redis."""
