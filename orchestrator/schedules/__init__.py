"""Schedules: definitions and their state in Redis, the service that fires them, and what users call."""
