"""Readers of the schedules of other schedulers: what each has, when it last ran, and why some cannot be taken over."""
