"""The auditor: an agent that reads Python files and reports unsupervised Celery sends."""

from __future__ import annotations

import os
import signal

from pydantic import BaseModel, ConfigDict

from orchestrator import Agent, Context, Exponential, Message, Retry, handles
from orchestrator.migration import Finding, UnparsableSource, audit_source, read_source
from workers.records import Records


class Audit(Message):
    """Audit one file."""

    path: str
    #: Id of the demo, which reads the report from Redis. Without it, the report is only returned.
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


class Auditor(Agent):
    """Audits files.

    A file that can be read but is not Python is reported as that: it will not be Python the next time either.
    One that cannot be read or decoded is an error, and tried again, for somebody may just be writing it.
    """

    name = "auditor"
    retry = Retry(max_retries=3, backoff=Exponential(initial_s=0.2, cap_s=1.0))

    @handles(Audit)
    def audit(self, message: Audit, context: Context) -> Report:
        """Audit one file."""
        records = None
        if message.run and context.orchestrator is not None:
            records = Records(context.orchestrator.runtime.store, message.run)
            records.note_start(context.id, context.attempt, context.worker)
        if message.kills_its_worker:
            os.kill(os.getpid(), signal.SIGKILL)
        report = audit(message.path)
        if records is not None:
            records.note_report(context.id, report.model_dump_json())
        return report


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
