"""The options ``--json`` and ``--limit``; and how a JSON document is printed."""

from __future__ import annotations

import json
import math
from typing import Any

import click
from celery.bin.base import CeleryOption

as_json_option = click.option("--json", "as_json", is_flag=True, cls=CeleryOption, help="Print one JSON document.")


def limit_option(most: int) -> Any:
    """The option ``--limit``, from 1 to ``most``; 50 by default."""
    return click.option(
        "--limit",
        type=click.IntRange(1, most),
        default=50,
        show_default=True,
        cls=CeleryOption,
        help="Show at most this many.",
    )


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
