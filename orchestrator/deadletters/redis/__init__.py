"""The dead-letter log in Redis."""
