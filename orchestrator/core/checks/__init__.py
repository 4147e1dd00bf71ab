"""Checks of values that users or other processes give."""
