"""Monitors: an owner gets one DOWN when the target of its monitor has died."""
