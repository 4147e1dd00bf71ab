"""Fires the schedules that are due."""
