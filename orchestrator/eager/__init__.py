"""Eager mode: the same attempts and outcomes, in this process, without Redis."""
