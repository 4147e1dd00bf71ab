"""The ports on which this host's workers serve Prometheus, as a document for its file-based service discovery."""

from __future__ import annotations

from typing import Any

from orchestrator.health import files


def targets() -> list[dict[str, Any]]:
    """The ports of this user's workers on this host, as ``file_sd`` wants them.

    Raises:
        OSError, UntrustedDirectory: the health files cannot be read.
    """
    try:
        found = [vitals for folder in files.directories() for vitals in files.living(folder)]
    except FileNotFoundError:
        found = []
    return [
        {"targets": [f"127.0.0.1:{vitals['metrics_port']}"], "labels": {"node": vitals["node"]}}
        for vitals in found
        if isinstance(vitals.get("metrics_port"), int)
    ]
