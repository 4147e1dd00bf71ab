"""Schedules that are declared in code: entries of ``beat_schedule``, methods of agents."""
