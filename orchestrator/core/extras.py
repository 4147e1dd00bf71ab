"""The error for a package that is installed with an extra of this distribution and is missing."""

from __future__ import annotations

from importlib.util import find_spec

from orchestrator.core.errors import InvalidSettings


def require_extra(option: str, package: str, extra: str) -> None:
    """Refuse an option if the package that it needs is not installed.

    Raises:
        InvalidSettings: the package is missing; names the extra.
    """
    if find_spec(package) is None:
        raise InvalidSettings([_line(option, package, extra)])


def missing_extra(option: str, error: ModuleNotFoundError, extra: str) -> InvalidSettings:
    """The error for an option whose package could not be imported."""
    return InvalidSettings([_line(option, str(error.name), extra)])


def _line(option: str, package: str, extra: str) -> str:
    return f"{option}: {package} is not installed; allowed: pip install 'celery-orchestrator[{extra}]'"
