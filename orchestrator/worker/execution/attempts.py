"""Derives a supervised task's class, so that all user code that Celery's tracer calls for a message is one attempt.

That is ``before_start`` and ``__call__``; Celery has no hook around both. ``run`` is not changed: a task that calls
``self.run()`` gets its result or error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from celery.app.task import Task
from celery.exceptions import Reject

from orchestrator.core.deliveries.supervision import HEADER
from orchestrator.core.log import get_logger
from orchestrator.transport.celery.own_fields import FENCE, EagerHeaders, own_field
from orchestrator.transport.mailbox_entry import LINEAGE
from orchestrator.worker.execution.execute import attempt

logger = get_logger(__name__)

#: Attribute of a request whose attempt has begun.
_BEGUN: Final = "_orchestrator_begun"

#: Attribute of a request with the arguments of ``before_start``, which is called within the attempt.
_PREPARED: Final = "_orchestrator_prepared"

#: Modules of ``Task.__call__``: Celery's own, and its replacement in Celery's worker.
_CELERYS_CALL: Final = ("celery.app.task", "celery.app.trace")

#: Headers that a retry by ``self.retry``, which is the same delivery, inherits.
_INHERITED: Final = (HEADER, LINEAGE, FENCE)


def has_own(cls: type, name: str) -> bool:
    """Whether a user's class defines ``name``."""
    mro = cls.mro()
    return any(name in vars(node) and node not in _MIXINS for node in mro[: mro.index(Task)])


def derive(task: Any) -> None:
    """Derive a task's class so that it runs each message as an attempt."""
    cls = type(task)
    mixins: list[type] = [Attempts]
    if has_own(cls, "before_start"):
        mixins.append(_WithinAttempt)
    if any(has_own(cls, hook) for hook in ("on_failure", "on_retry", "on_success", "after_return")):
        mixins.append(_LoggedHooks)
    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    task.__class__ = type(cls.__name__, (*mixins, cls), {**names, "__own_call__": has_own(cls, "__call__")})


def underive(task: Any) -> None:
    """Undo :func:`derive`."""
    cls = type(task)
    if issubclass(cls, Attempts):
        task.__class__ = next(base for base in cls.__bases__ if base not in _MIXINS)


def _traced(request: Any) -> bool:
    """Whether Celery's tracer is about to run the task for this request."""
    return request is not None and not request.called_directly and _BEGUN not in vars(request)


class Attempts(Task):
    """Runs a message as an attempt when Celery's tracer calls the task; a direct call is the user's own."""

    __own_call__ = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self.request_stack.top
        call: Callable[..., Any] = super().__call__
        if not _traced(request):
            return call(*args, **kwargs)
        if not self.__own_call__ and vars(Task)["__call__"].__module__ in _CELERYS_CALL:
            # As Celery's tracer does if `__call__` is its own; a nested call is not protected any more.
            call, request._protected = self.run, 1
        vars(request)[_BEGUN] = True
        prepared = vars(request).pop(_PREPARED, None)
        if prepared is not None:
            return attempt(self, request, self._prepare_and_call, (prepared, call), {})
        return attempt(self, request, call, args, kwargs)

    def _prepare_and_call(self, prepared: tuple[str, Any, Any], call: Callable[..., Any]) -> Any:
        self.before_start(*prepared)
        _, args, kwargs = prepared
        return call(*args, **kwargs)

    def apply(
        self,
        args: Any = None,
        kwargs: Any = None,
        *rest: Any,
        headers: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """As Celery's, but the task does not see this library's headers in an eager run either."""
        if headers is not None:
            headers = EagerHeaders(headers)
            if HEADER in headers.own:
                # For `self.retry` as well: the caller of the first attempt records the outcome.
                options["throw"] = False
        return super().apply(args, kwargs, *rest, headers=headers, **options)

    def signature_from_request(self, request: Any = None, *args: Any, **options: Any) -> Any:
        """As Celery's, which ``self.retry`` sends; a signature with the same id inherits the supervision."""
        request = self.request if request is None else request
        signature = super().signature_from_request(request, *args, **options)
        if signature.options.get("task_id") == request.id:
            inherited = {name: value for name in _INHERITED if (value := own_field(request, name)) is not None}
            if not request.is_eager:
                inherited.pop(FENCE, None)
            if inherited:
                signature.set(headers={**(signature.options.get("headers") or {}), **inherited})
        return signature


class _WithinAttempt(Task):
    def before_start(self, task_id: str, args: Any, kwargs: Any) -> Any:
        """Called by Celery's tracer. Only stores the arguments; the attempt calls the user's own."""
        request = self.request_stack.top
        if _traced(request):
            vars(request)[_PREPARED] = task_id, args, kwargs
            return None
        return super().before_start(task_id, args, kwargs)


class _LoggedHooks(Task):
    """Hooks whose errors are logged, because the message was settled before.

    Celery logs errors of two of the four, on workers. A plain eager run raises the errors of all, as in Celery.
    """

    def on_failure(self, *args: Any) -> None:
        _logged(self, super().on_failure, args)

    def on_retry(self, *args: Any) -> None:
        _logged(self, super().on_retry, args)

    def on_success(self, *args: Any) -> None:
        _logged(self, super().on_success, args)

    def after_return(self, *args: Any) -> None:
        _logged(self, super().after_return, args)


def _logged(task: Any, hook: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        hook(*args)
    except (Reject, MemoryError):
        raise
    except Exception:
        request = task.request_stack.top
        if request is not None and request.is_eager and own_field(request, HEADER) is None:
            raise
        logger.exception("%s of task %s raised", hook.__name__, task.name)


_MIXINS: Final = (Attempts, _WithinAttempt, _LoggedHooks)
