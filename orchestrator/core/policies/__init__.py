"""Policies of a send: retries and timeouts, each value from the nearest level that has one."""
