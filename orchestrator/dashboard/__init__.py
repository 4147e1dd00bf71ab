"""Flower: what it shows of our transport."""

from orchestrator.dashboard.queues import install

__all__ = ["install"]
