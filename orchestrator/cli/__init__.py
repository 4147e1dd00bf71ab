"""Subcommands of ``celery -A APP …``."""

from orchestrator.cli.loading import report_bad_settings

report_bad_settings()
