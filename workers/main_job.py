"""The demo's job, as a workflow: find the Python files, audit each of them, and sum up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator import ITEM, Workflow
from workers.auditors import Audit, Auditor, Find, Summarize


def main_job(root: Path, run: str, bad_input: Mapping[str, Audit]) -> Workflow:
    """The workflow for the files below ``root``.

    ``run`` is the id of the demo; ``bad_input`` are audits that fail, by the names of their steps.
    """
    flow = Workflow("audit")

    # One message, whose result is the list of the files.
    found = flow.step("find", Find(root=str(root)), to=Auditor)

    # A message for each file in that list.
    fields = {"root": str(root), "path": ITEM, "run": run}
    audits = flow.map("audit", Audit, over=found.result, fields=fields, to=Auditor)

    # With chaos, audits that become dead letters.
    bad = [flow.step(name, audit, to=Auditor) for name, audit in bad_input.items()]

    # Once all of these have ended, well or not: one message that has all reports.
    flow.step(
        "summary", Summarize, fields={"reports": audits.result}, to=Auditor, after=[audits, *bad], when="all_ended"
    )
    return flow
