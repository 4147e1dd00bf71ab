"""Workflows: graphs of supervised sends that Redis drives, so that no coordinator can be lost."""
