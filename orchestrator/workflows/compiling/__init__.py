"""Checks a workflow's definition and makes its plan and messages."""
