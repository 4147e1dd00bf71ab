"""Barriers: parties wait until all of them have arrived."""
