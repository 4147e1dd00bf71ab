"""Schedules: what is sent at which times, kept in Redis beside the mailboxes."""
