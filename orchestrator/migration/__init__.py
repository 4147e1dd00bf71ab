"""Finds the raw Celery sends in an existing code base, which would have to change to be supervised.

    for path in python_files(Path("shop")):
        for finding in audit_source(read_source(path), str(path)):
            print(f"{finding.path}:{finding.line}:{finding.column} {finding.kind} -> {finding.suggestion}")

The audited code is read and parsed, never imported or run.
"""

from orchestrator.migration.audit import audit_source
from orchestrator.migration.finding import Confidence, Finding, FindingKind, UnparsableSource
from orchestrator.migration.sources import installed_packages_root, python_files, read_source

__all__ = [
    "Confidence",
    "Finding",
    "FindingKind",
    "UnparsableSource",
    "audit_source",
    "installed_packages_root",
    "python_files",
    "read_source",
]
