"""Logging: metrics.jsonl, TensorBoard, and progress on the terminal."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hagan3d.data.io.files import write_text

PLAIN_SECONDS = 20.0  # between two lines without a terminal


class RunningMeans:
    """Running mean of each term since the last write; lazy terms are averaged over the steps that have them."""

    def __init__(self, sums: Mapping[str, tuple[float, int]] | None = None) -> None:
        """Start from ``sums``: the sum and the count of each term."""
        self.sums = dict(sums or {})

    def add(self, terms: Mapping[str, float]) -> None:
        """Add the terms of one step."""
        for name, value in terms.items():
            total, times = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + value, times + 1

    def pop(self) -> dict[str, float]:
        """Return the means and reset them."""
        means = {name: total / times for name, (total, times) in self.sums.items()}
        self.sums = {}
        return means


class RunLog:
    """All logs of a run: a row of means at intervals, and the progress of every step."""

    def __init__(self, out: Path, steps_done: int, steps: int, every: int, means: RunningMeans) -> None:
        """Resume after ``steps_done`` of ``steps`` steps in the folder ``out``, with a row every ``every`` steps."""
        self.steps, self.every, self.means = steps, every, means
        self.metrics = MetricsFile(out / "metrics.jsonl", steps_done)
        self.board = TensorBoard(out / "tensorboard", steps_done)
        self.progress = TrainingProgress(steps_done, steps)
        self.latest: dict[str, float] = {}

    def write(self, step: int, terms: Mapping[str, float]) -> None:
        """Log the terms after ``step`` steps."""
        self.means.add(terms)
        if step % self.every == 0 or step == self.steps:
            row = self.means.pop()
            self.metrics.write(step, row)
            self.board.write(step, row, self.progress.speed(step))
        self.latest |= terms
        self.progress.update(step, {name: self.latest[name] for name in self.latest if name.count("/") == 1})

    def close(self) -> None:
        """Close the files and restore the terminal."""
        self.progress.close()
        self.board.close()
        self.metrics.close()


class MetricsFile:
    """metrics.jsonl: one row per logged step. It holds no times, so that equal runs write equal files."""

    def __init__(self, path: Path, steps_done: int) -> None:
        """Open the file and drop rows written after the last checkpoint of a stopped run."""
        self.path = path
        rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        write_text(path, "".join(f"{row}\n" for row in rows if _step_of(row) <= steps_done))
        self.file = path.open("a", encoding="utf-8")

    def write(self, step: int, terms: Mapping[str, float]) -> None:
        """Append the terms after ``step`` steps."""
        self.file.write(json.dumps({"step": step, **terms}) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _step_of(row: str) -> float:
    """Step of a row; infinity for a truncated row."""
    try:
        return float(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class TensorBoard:
    """The same terms, and the speed, as TensorBoard events."""

    def __init__(self, folder: Path, steps_done: int) -> None:
        """Open a writer that hides events written after the last checkpoint of a stopped run."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=steps_done + 1)

    def write(self, step: int, terms: Mapping[str, float], steps_per_second: float) -> None:
        """Add the terms after ``step`` steps."""
        for name, value in {**terms, "speed/steps_per_second": steps_per_second}.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self.writer.close()


class TrainingProgress:
    """A progress bar with speed, time left and losses on a terminal; else a line at intervals."""

    def __init__(self, first: int, last: int) -> None:
        """Show progress from step ``first`` to ``last``."""
        self.console = Console(stderr=True)
        self.first, self.last = first, last
        self.started = self.printed = time.monotonic()
        self.progress: Progress | None = None
        if self.console.is_terminal:
            columns = (
                TextColumn("train"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[terms]}"),
            )
            self.progress = Progress(*columns, console=self.console)
            self.task = self.progress.add_task("train", total=last, completed=first, speed="", terms="")
            self.progress.start()

    def update(self, step: int, terms: Mapping[str, float]) -> None:
        """Show that ``step`` steps are done, with the losses of the last."""
        now = time.monotonic()
        speed = self.speed(step)
        shown = " ".join(f"{name} {value:.3g}" for name, value in terms.items())
        if self.progress is not None:
            self.progress.update(self.task, completed=step, speed=f"{speed:.2f} steps/s", terms=shown)
        elif now - self.printed > PLAIN_SECONDS or step == self.last:
            self.printed = now
            left = (self.last - step) / speed if speed else 0.0
            self.console.print(
                f"step {step}/{self.last}  {speed:.2f} steps/s  {left / 60:.0f} min left  {shown}", soft_wrap=True
            )

    def speed(self, step: int) -> float:
        """Steps per second since the start."""
        return (step - self.first) / max(time.monotonic() - self.started, 1e-9)

    def close(self) -> None:
        """Restore the terminal."""
        if self.progress is not None:
            self.progress.stop()
