"""The steps of workflows that run in this process."""
