"""Packages that come with an extra of this distribution, and the error for one that is missing."""

from __future__ import annotations

from importlib.util import find_spec

from orchestrator.core.errors import InvalidSettings


def require_extra(asked: str, package: str, extra: str) -> None:
    """Refuse ``asked`` if a package that it needs is not installed.

    Raises:
        InvalidSettings: it is not; names the extra.
    """
    if find_spec(package) is None:
        raise InvalidSettings([_line(asked, package, extra)])


def missing_extra(asked: str, error: ModuleNotFoundError, extra: str) -> InvalidSettings:
    """The error to raise where ``asked`` needs a package that is not installed."""
    return InvalidSettings([_line(asked, str(error.name), extra)])


def _line(asked: str, package: str, extra: str) -> str:
    return f"{asked}: {package} is not installed; allowed: pip install 'celery-orchestrator[{extra}]'"
