"""The auditor: an agent that finds Python files, reports their unsupervised Celery sends, and sums up the reports."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from orchestrator import Agent, Context, Exponential, Message, Retry, handles
from orchestrator.migration import Finding, FindingKind, UnparsableSource, audit_source, python_files, read_source
from workers.records import Records


class Find(Message):
    """Find the Python files below a directory; of a file, itself."""

    root: str


class Audit(Message):
    """Audit one file."""

    path: str
    #: The directory from which ``path`` starts; this process' if it is empty.
    root: str = ""
    #: Id of the demo, which reads from Redis when each audit began. Without it, nothing is recorded.
    run: str = ""
    #: Whether the process that handles the message SIGKILLs itself, to show what happens to such a message.
    kills_its_worker: bool = False


class Report(BaseModel):
    """The result of auditing one file."""

    model_config = ConfigDict(frozen=True)

    path: str
    findings: tuple[Finding, ...] = ()
    #: Why this interpreter cannot parse the file, so that its sends are unknown; empty if it can.
    unparsable: str = ""


class Summarize(Message):
    """Sum up the reports; ``None`` stands for a file whose audit failed."""

    reports: list[Report | None]


class Found(BaseModel):
    """How many unsupervised sends of one kind there are."""

    model_config = ConfigDict(frozen=True)

    kind: FindingKind
    certain: int
    possible: int


class Summary(BaseModel):
    """The result of the whole job."""

    model_config = ConfigDict(frozen=True)

    #: Files that were audited.
    files: int
    found: tuple[Found, ...]
    #: Why each file that is not Python cannot be parsed.
    unparsable: tuple[str, ...] = ()


class Auditor(Agent):
    """Audits files.

    A file that can be read but is not Python is reported as that: it will not be Python the next time either.
    One that cannot be read or decoded is an error, and tried again, for somebody may just be writing it.
    """

    name = "auditor"
    retry = Retry(max_retries=3, backoff=Exponential(initial_s=0.2, cap_s=1.0))

    @handles(Find)
    def find(self, message: Find) -> list[str]:
        """The files, from the root on."""
        root = Path(message.root)
        return [str(path.relative_to(root)) for path in python_files(root) if has_text_name(path)]

    @handles(Audit)
    def audit(self, message: Audit, context: Context) -> Report:
        """Audit one file."""
        if message.run and context.orchestrator is not None:
            records = Records(context.orchestrator.runtime.store, message.run)
            records.note_start(context.id, context.attempt, context.worker)
        if message.kills_its_worker:
            os.kill(os.getpid(), signal.SIGKILL)
        return audit(str(Path(message.root, message.path)))

    @handles(Summarize)
    def summarize(self, message: Summarize) -> Summary:
        """Sum up all reports."""
        reports = [report for report in message.reports if report is not None]
        counts = Counter((finding.kind, finding.confidence) for report in reports for finding in report.findings)
        return Summary(
            files=len(reports),
            found=tuple(
                Found(kind=kind, certain=counts[kind, "certain"], possible=counts[kind, "possible"])
                for kind in FindingKind
            ),
            unparsable=tuple(report.unparsable for report in reports if report.unparsable),
        )


def has_text_name(path: Path) -> bool:
    """Whether a file's name is UTF-8, so that a message can hold it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def audit(path: str) -> Report:
    """The report on one file.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not in the encoding that it claims.
        SyntaxError: it claims an encoding there is none of.
    """
    source = read_source(path)
    try:
        return Report(path=path, findings=audit_source(source, path))
    except UnparsableSource as error:
        return Report(path=path, unparsable=str(error))
