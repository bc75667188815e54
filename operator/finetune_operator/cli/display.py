"""The output of `finetune run` and `finetune watch`: a progress bar on a terminal, else plain lines; then a table."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from finetune_operator.api.v1alpha1 import FineTuneJobStatus, ProgressStatus
from finetune_operator.constants import ConditionType, Phase
from finetune_operator.core.status.ledger import described
from finetune_operator.core.status.outcome import outcome
from finetune_trainer.contract import FailureClass

PLAIN_INTERVAL = 5.0
"""Seconds between two progress lines if the output is not a terminal."""
LASTING = (Phase.RESTARTING, Phase.SUSPENDED)
"""The phases whose message is printed above the bar, so that it stays visible when the next phase redraws the bar."""


class Display:
    """Shows a job's status as it changes."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stdout, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._phase = ""
        self._message = ""
        self._plain_at = 0.0
        self._notes: set[str] = set()

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description:<10}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[figures]}", markup=False),
                TimeElapsedColumn(),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task("Pending", total=None, figures="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, status: FineTuneJobStatus) -> None:
        """Show the newest status; show nothing until the operator has written one."""
        if status.phase is None:
            return
        phase = status.phase
        message = _message(status, phase)
        for note in status.facts.notes if status.facts else ():
            if note not in self._notes:
                self._print(f"Note: {note}")
                self._notes.add(note)
        if self._bar and self._task is not None:
            progress = status.progress
            total = progress.total_steps if progress else None
            done = progress.step if progress else 0
            lasting = phase in LASTING
            text = "" if lasting else figures(progress) if progress else message
            self._bar.update(self._task, description=phase, total=total, completed=done, figures=text)
            if lasting and message != self._message:
                self._print(f"{phase}: {message}")
        elif phase != self._phase or message != self._message:
            self._print(f"{phase}: {message}" if message else phase)
        elif status.progress and time.monotonic() - self._plain_at > PLAIN_INTERVAL:
            self._print(f"{phase}: {figures(status.progress)}")
            self._plain_at = time.monotonic()
        self._phase, self._message = phase, message

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False)


def figures(progress: ProgressStatus) -> str:
    """Return step, loss, speed and remaining time as one line."""
    parts = [f"step {progress.step}/{progress.total_steps}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    elif progress.samples_per_second:
        parts.append(f"{progress.samples_per_second:,.1f} samples/s")
    if progress.eta:
        parts.append(f"ETA {progress.eta}")
    return "  ".join(parts)


def _message(status: FineTuneJobStatus, phase: str) -> str:
    if phase in (Phase.COMPLETE, Phase.FAILED):
        return ""
    reconciling = next((c for c in status.conditions if c.type == ConditionType.RECONCILING), None)
    return reconciling.message if reconciling else ""


def show_result(console: Console, status: FineTuneJobStatus, root: str) -> None:
    """Print the metrics before and after the training, and the path of the model below `root`."""
    if status.evaluation:
        table = Table("metric", "before", "after", "change")
        for name, after in sorted(status.evaluation.final.items()):
            before = status.evaluation.base.get(name)
            change = f"{after - before:+.4f}" if before is not None else ""
            table.add_row(name, f"{before:.4f}" if before is not None else "", f"{after:.4f}", change)
        console.print(table)
    if status.result:
        for clause in outcome(status.result):
            console.print(f"Note: {clause}.", soft_wrap=True, markup=False)
        console.print(f"Model: {root}{status.result.path}", soft_wrap=True, markup=False)
        if status.result.merged_path:
            console.print(f"Merged: {root}{status.result.merged_path}", soft_wrap=True, markup=False)


def show_failure(console: Console, status: FineTuneJobStatus) -> None:
    """Print why the job failed.

    If the user cannot correct the cause in the manifest, also print the class of the failure, the exit code, the node,
    and the last log lines of the rank that failed first.
    """
    stalled = next((c for c in status.conditions if c.type == ConditionType.STALLED and c.status == "True"), None)
    newest = status.ledger[-1] if status.phase == Phase.FAILED and status.ledger else None
    if newest is None:
        console.print(
            f"finetune: {stalled.message if stalled else 'the job was deleted'}", soft_wrap=True, markup=False
        )
        return
    sentence = newest.message
    if newest.class_ != FailureClass.INVALID:
        for line in newest.log:
            console.print(f"  {line}", soft_wrap=True, markup=False)
        sentence = described(newest)
    console.print(f"finetune: {sentence}", soft_wrap=True, markup=False)
