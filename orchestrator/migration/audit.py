"""Finds unsupervised sends in Python sources."""

from __future__ import annotations

import ast
import re

from orchestrator.migration.evidence import (
    dotted_name,
    evident_result,
    last_name,
    leading_name,
    operands,
    send_kind,
    waits_for_ever,
)
from orchestrator.migration.finding import Confidence, Finding, FindingKind
from orchestrator.migration.precheck import may_have_findings
from orchestrator.migration.scope import Scope
from orchestrator.migration.source_text import SourceText
from orchestrator.migration.suggestion import suggest_send, suggest_wait
from orchestrator.migration.survey import Survey, survey
from orchestrator.migration.syntax import parse

_SNIPPET_CHARACTERS = 160
_IGNORED = re.compile(r"#\s*orchestrator:\s*ignore\s*\Z")


def audit_source(source: str, path: str) -> tuple[Finding, ...]:
    """The unsupervised sends of `source`, in the order they are written; `path` is only repeated in them.

    A call is left out if the line it starts on, the line it ends on or the line of its method's name ends in
    `# orchestrator: ignore`. Raises UnparsableSource if `source` is not Python.
    """
    tree = parse(source, path)
    if not may_have_findings(source):
        return ()
    file = survey(tree)
    text = SourceText(source)
    findings = []
    for call, scope in file.calls:
        if (verdict := _judge(call, scope, file)) is not None and not _is_ignored(call, text):
            findings.append(_finding(call, *verdict, text, path))
    return tuple(sorted(findings, key=lambda finding: (finding.line, finding.column)))


def _judge(call: ast.Call, scope: Scope, file: Survey) -> tuple[FindingKind, Confidence] | None:
    if (kind := send_kind(call)) is not None:
        return kind, _confidence(call, file)
    if not isinstance(call.func, ast.Attribute) or not waits_for_ever(call):
        return None
    result = _result(call.func.value, scope)
    return None if result is None else (FindingKind.GET_WITHOUT_TIMEOUT, _confidence(result, file))


def _result(receiver: ast.expr, scope: Scope) -> ast.expr | None:
    """The expression that shows that `receiver` is a Celery result; None if there is none."""
    if (result := evident_result(receiver)) is not None:
        return result
    for operand in operands(receiver):
        name = dotted_name(operand)
        held = name and scope.result_in(name, (operand.lineno, operand.col_offset))
        if held:
            return held
    return None


def _confidence(sender: ast.expr, file: Survey) -> Confidence:
    """The certainty that the send or result `sender` is Celery's."""
    if _names_a_task(sender, file):
        return "certain"
    return "certain" if file.imports_celery and not _looks_foreign(sender) else "possible"


def _names_a_task(sender: ast.expr, file: Survey) -> bool:
    name = leading_name(sender) or ""
    while name:
        if name in file.tasks:
            return True
        name = name.rpartition(".")[0]
    return False


def _looks_foreign(sender: ast.expr) -> bool:
    """Whether a send goes through `super()`, and so implements one, or through a name of a pool."""
    if not isinstance(sender, ast.Call) or not isinstance(sender.func, ast.Attribute):
        return False
    receiver = sender.func.value
    if isinstance(receiver, ast.Call):
        receiver = receiver.func
    name = last_name(receiver) or ""
    return name == "super" or name.lower().endswith("pool")


def _is_ignored(call: ast.Call, text: SourceText) -> bool:
    lines = {call.lineno, call.end_lineno or call.lineno, _place(call)[0]}
    return any(_IGNORED.search(text.line(line)) for line in lines)


def _place(call: ast.Call) -> tuple[int, int]:
    """Line and byte offset of the name that is called."""
    function = call.func
    if not isinstance(function, ast.Attribute):
        return function.lineno, function.col_offset
    end_bytes = function.end_col_offset or function.col_offset
    return function.end_lineno or function.lineno, end_bytes - len(function.attr)


def _finding(call: ast.Call, kind: FindingKind, confidence: Confidence, text: SourceText, path: str) -> Finding:
    line, offset_bytes = _place(call)
    waits = kind is FindingKind.GET_WITHOUT_TIMEOUT
    return Finding(
        path=path,
        line=line,
        column=text.column(line, offset_bytes),
        kind=kind,
        confidence=confidence,
        snippet=text.line(line).strip()[:_SNIPPET_CHARACTERS].rstrip(),
        suggestion=suggest_wait(call, text.of) if waits else suggest_send(call, kind, text.of),
    )
