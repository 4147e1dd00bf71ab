"""The conductor: starts the processes of a deployment and the workflow, kills an auditor, and counts the outcomes.

Redis, a monitor manager, beat and auditors, each a process of its own. Whichever dies is started again by
``orchestrator supervise``; the messages do not wait for that.
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic, sleep

from rich.console import Console

from orchestrator import Orchestrator, Run
from orchestrator.core.errors import InfrastructureError
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.maintenance import manager
from orchestrator.sending.ledger import LedgerRow
from orchestrator.workflows.records import StepRecord
from workers.app import assemble
from workers.auditors import Auditor, Summary, has_text_name
from workers.chaos import Kill, bad_input, kill_one
from workers.ending import Ending
from workers.main_job import main_job
from workers.processes import Child, Crew
from workers.progress import Display, display
from workers.readiness import is_up
from workers.records import Records
from workers.summary import summarize
from workers.tally import Tally, tally
from workers.workspace import Workspace

#: The demo fails if no message has ended for this long, in seconds.
STALLED_S = 30.0

#: Seconds within which a killed auditor's messages must run elsewhere.
PROMISED_S = 3.0

_LOOK_EVERY_S = 0.05
_WATCH_EVERY_S = 1.0
_DECLARED_WITHIN_S = 10.0
_KEPT_S = 3600
_PAGE = 500
_ARGUMENTS = ["--without-gossip", "--without-mingle"]


class Stalled(InfrastructureError):
    """An expected event did not happen in time."""


class NoSummary(InfrastructureError):
    """The workflow has ended without its last step."""


class Conductor:
    """One run of the demo."""

    def __init__(
        self,
        console: Console,
        workspace: Workspace,
        run: str,
        ending: Ending,
        *,
        chaos: bool,
        auditors: int,
        watch: bool,
    ) -> None:
        self._console = console
        self._workspace = workspace
        self._run = run
        self._ending = ending
        self._chaos = chaos
        self._count = auditors
        self._watch = watch
        self._watched_at = monotonic()
        # Celery's command line made an app before the demo's Redis was started; this app has its URL.
        self._orchestrator: Orchestrator = assemble(workspace.settings)
        self._auditors: list[Child] = []
        self._kill: Kill | None = None

    def conduct(self, root: Path, files: list[Path]) -> int:
        """Run it. Returns the exit code.

        Raises:
            Stalled: no message got anywhere for too long.
            NoSummary: the last step was not handled.
            KeepsDying: the processes do not stay alive.
            BrokerUnavailable: Redis is away.
        """
        store = self._orchestrator.runtime.store
        self._say(f"demo: {len(files)} Python files below {root}")
        self._say(f"demo: {self._count} auditors, a monitor manager, beat; Redis: {store.url}")
        readable = [file for file in files if has_text_name(file)]
        if len(readable) < len(files):
            self._say(f"demo: files that are left out, for their names are not UTF-8: {len(files) - len(readable)}")
        bad = bad_input(self._workspace.directory, self._run) if self._chaos else {}
        # A message for each file, one for each bad input, and one to find the files and one to sum up.
        total = len(readable) + len(bad) + 2
        if bad:
            self._say(
                "demo: chaos: one third through, an auditor is SIGKILLed; and among the input are a file that cannot "
                "be decoded and a message that kills its worker (--no-chaos leaves all of this out)"
            )
        try:
            with Crew(self._workspace.environment, self._workspace.directory) as crew:
                self._start(crew)
                self._until_up(crew)
                began = monotonic()
                run = self._orchestrator.workflows.start(main_job(root, self._run, bad), workflow_id=self._run)
                with display(self._console, total) as shown:
                    self._until_ended(crew, run, total, shown)
                took_s = monotonic() - began
                result = self._count_up(run)
        finally:
            if not self._workspace.own_redis:
                self._forget_later()
        self._console.print()
        summarize(self._console, result, (self._workspace.directory, root), took_s)
        return self._close(result, total)

    def _start(self, crew: Crew) -> None:
        # Each counts as ready when it is started: the demo itself waits for all of them together.
        worker = {"arguments": _ARGUMENTS, "log_level": "WARNING", "ready": "none"}
        crew.add("manager", "worker", queues=[manager.QUEUE], pool="solo", **worker)
        crew.add("beat", "beat", schedule=str(self._workspace.directory / "beat-schedule"))
        self._auditors = [
            crew.add(f"auditor{k}", "worker", queues=[Auditor.name], pool="prefork", concurrency=1, **worker)
            for k in range(1, self._count + 1)
        ]
        crew.start()

    def _until_up(self, crew: Crew) -> None:
        until = monotonic() + STALLED_S
        while not is_up(self._orchestrator.runtime.store, self._orchestrator.registry, self._count + 1):
            if monotonic() > until:
                raise Stalled(f"the workers were not up within {STALLED_S:g} s")
            self._ending.check()
            crew.restarted()
            sleep(_LOOK_EVERY_S)

    def _until_ended(self, crew: Crew, run: Run, total: int, shown: Display) -> None:
        before: LedgerRow | None = None
        moved_at = monotonic()
        while True:
            self._ending.check()
            row = self._row()
            done = row.handled + row.dead
            shown.show(done)
            self._show_steps(run, shown)
            if run.status().ended and row.pending == 0:
                break
            if row != before:
                before, moved_at = row, monotonic()
            elif monotonic() - moved_at > STALLED_S:
                raise Stalled(f"no message got anywhere for {STALLED_S:g} s; {row.pending} are pending")
            for name in crew.restarted():
                shown.say(f"demo: {name} is dead, and started again")
            if self._chaos and self._kill is None and done * 3 >= total:
                self._kill_one(shown)
            sleep(_LOOK_EVERY_S)
        if self._chaos and self._kill is None:
            shown.say("demo: no auditor was killed: so few messages that none was held by anybody one third through")

    def _show_steps(self, run: Run, shown: Display) -> None:
        if self._watch and monotonic() - self._watched_at >= _WATCH_EVERY_S:
            self._watched_at = monotonic()
            steps = ", ".join(_where(step) for step in run.steps())
            shown.say(f"demo: workflow {run.status().state}, {run.progress():.0%}: {steps}")

    def _kill_one(self, shown: Display) -> None:
        self._kill = kill_one(self._orchestrator.runtime.store, self._orchestrator.registry, self._auditors)
        if self._kill is not None:
            shown.say(f"demo: {self._kill.name} is SIGKILLed; messages it holds: {len(self._kill.held)}")

    def _row(self) -> LedgerRow:
        rows = (row for row in self._orchestrator.ledger() if row.queue == Auditor.name)
        return next(rows, LedgerRow(Auditor.name))

    def _count_up(self, run: Run) -> Tally:
        registry = self._orchestrator.registry
        until = monotonic() + _DECLARED_WITHIN_S
        while self._kill and self._kill.incarnation not in {d.incarnation for d in registry.deaths(_PAGE)}:
            self._ending.check()
            # It had finished all messages that it held, so none ran elsewhere.
            if monotonic() > until:
                raise Stalled(f"{self._kill.incarnation} was not declared dead within {_DECLARED_WITHIN_S:g} s")
            sleep(_LOOK_EVERY_S)
        summary = run.result("summary")
        if summary is None:
            raise NoSummary("; ".join([*run.explain(), f"summary: {run.outcome('summary')}"]))
        records = Records(self._orchestrator.runtime.store, self._run)
        return tally(
            ledger=self._row(),
            summary=Summary.model_validate(summary),
            letters=self._letters(),
            deaths=registry.deaths(_PAGE),
            starts=list(records.starts()),
            kill=self._kill,
        )

    def _letters(self) -> list[DeadLetter]:
        letters: list[DeadLetter] = []
        before: str | None = None
        while page := self._orchestrator.dead_letters.list(_PAGE, before=before):
            letters += page
            before = page[-1].id
        return [letter for letter in reversed(letters) if letter.queue == Auditor.name]

    def _forget_later(self) -> None:
        """Let the keys that the demo leaves in the user's Redis expire."""
        client = self._orchestrator.runtime.store.client
        for key in client.scan_iter(match=f"{self._workspace.settings.key_prefix}*", count=_PAGE):
            client.expire(key, _KEPT_S)

    def _close(self, result: Tally, total: int) -> int:
        balanced = result.balanced and result.ledger.accepted == total
        self._say(f"Not counted: the monitor manager's own mailbox, {manager.QUEUE}, for what beat sends it.")
        self._say(
            "In a deployment, the same is shown by celery -A APP ledger, workflows show, dead-letters list and agents, "
            "and by Flower."
        )
        if not self._workspace.own_redis:
            prefix = self._workspace.settings.key_prefix
            self._say(f"With ORCHESTRATOR_KEY_PREFIX={prefix} these commands show this run, for an hour.")
        if result.recovery is not None and result.recovery.last_s > PROMISED_S:
            self._say(f"demo: slower than promised: {result.recovery.last_s:.2f} s, not {PROMISED_S:g}")
        if not balanced:
            kept = self._workspace.keep_logs()
            self._say(f"demo: the ledger does not balance ({total} messages were due); the logs are kept in {kept}")
        self._say(result.last_line)
        return 0 if balanced else 1

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


def _where(step: StepRecord) -> str:
    if step.items is None or step.state in ("handled", "dead"):
        return f"{step.name} {step.state}"
    count, ended, _ = step.items
    return f"{step.name} {ended} of {count}"
