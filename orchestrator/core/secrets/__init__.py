"""Masks secrets wherever values are shown."""
