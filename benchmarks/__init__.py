"""Benchmarks: ratios within one run against something real. Never a timed assertion."""
