"""Workflow functions: a workflow as a function."""
