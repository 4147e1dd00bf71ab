"""``--json``: exactly one JSON document on stdout."""

from __future__ import annotations

import json
import math
from typing import Any

import click
from celery.bin.base import CeleryOption

as_json_option = click.option("--json", "as_json", is_flag=True, cls=CeleryOption, help="Print one JSON document.")


def print_document(data: Any) -> None:
    """Print the document. It is pure ASCII, so that no terminal acts on what it holds."""
    click.echo(json.dumps(_strict(data), indent=2))


def _strict(value: Any) -> Any:
    # Python reads and writes NaN, which is not JSON.
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value
