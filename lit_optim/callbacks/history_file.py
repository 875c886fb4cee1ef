"""`history.csv`: a line for each validation of a run, with what the training has cost so far."""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.checkpoints.format import check_state, is_count, is_number
from lit_optim.lightning_classes import Callback, LightningModule, Trainer, TrainerFn
from lit_optim.runs.layout import HISTORY_COLUMNS
from lit_optim.temporary import write_whole
from lit_optim.training.monitor import validated_metrics
from lit_optim.untrusted import Unreadable, read_text

LOG = logging.getLogger("lit_optim")


def _is_place(row: Any) -> bool:
    """Whether it is the step and the evaluations of a line; None where there was none."""
    is_pair = isinstance(row, list | tuple) and len(row) == 2
    return row is None or (is_pair and is_count(row[0]) and is_number(row[1]))


#: What a checkpoint holds for a run that resumes.
STATE: dict[str, Callable[[Any], bool]] = {
    "seconds": is_number,
    "evaluations": is_number,
    "lr": lambda lr: lr is None or is_number(lr),
    "row": _is_place,
}


class HistoryFile(Callback):
    """Writes a line after each validation but the sanity check, and keeps count of the costs.

    The columns are `step`, the updates made; `seconds` of training, without validations and
    checkpoints; `evaluations`, the backward passes, of which LBFGS, SAM and accumulated batches
    have several for an update; `lr`, that of the first group in the last update; and each metric
    that a validation has logged. Numbers are written in full, unknown ones as `nan`.

    A run that is resumed drops the lines after its checkpoint, and goes on counting.

    Args:
        path: of the file.
        monitor: the metric by which the run is judged; written even if it is one of training.
    """

    def __init__(self, path: Path, monitor: str | None = None) -> None:
        self.path, self.monitor = path, monitor
        #: To be appended to the callbacks of the trainer, after those that save checkpoints.
        self.restart = _Restart(self)
        self._metrics: list[str] = []
        self._seconds = self._evaluations = 0.0
        self._since: float | None = None  # when the clock started; None: it stands
        self._lr: Any = None
        self._passes: BackwardPasses | None = None
        self._loaded: Mapping[str, Any] | None = None
        self._is_writing = False
        self._unwritten: list[Mapping[str, str]] | None = None  # all lines, where the disk is full
        self._row: tuple[int, float] | None = None  # the step and evaluations of the newest line

    @property
    def seconds(self) -> float:
        """The seconds of training so far; NaN if an earlier version began the run."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._seconds + running

    @property
    def evaluations(self) -> float:
        """The backward passes so far; NaN if an earlier version began the run."""
        return self._evaluations + (self._passes.count if self._passes is not None else 0)

    def state_dict(self) -> dict[str, Any]:
        lr = None if self._lr is None else float(self._lr)
        row = None if self._row is None else [*self._row]
        return {"seconds": self.seconds, "evaluations": self.evaluations, "lr": lr, "row": row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check_state(state_dict, STATE)
        self._loaded = state_dict  # used if a training begins: tests load states too

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._go_on(trainer.global_step)
        self._passes = BackwardPasses(pl_module)
        self._is_writing = trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if self._is_writing:
            self._begin_file(trainer.global_step)
        self._since = time.perf_counter()

    def _go_on(self, step: int) -> None:
        """Count from what the checkpoint says."""
        unknown = math.nan if step else 0.0
        loaded, self._loaded = self._loaded or {}, None
        self._seconds = float(loaded.get("seconds", unknown))
        self._evaluations = float(loaded.get("evaluations", unknown))
        self._lr = loaded.get("lr")  # a validation may come before the next update
        # earlier versions do not say which line was the newest: then all up to here count
        row = loaded.get("row", (step, self._evaluations) if step else None)
        self._row = None if row is None else (row[0], row[1])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loaded is not None:  # nothing was left to train
            self._go_on(trainer.global_step)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._passes is not None:
            self._passes.told += 1

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if optimizer is trainer.optimizers[0]:
            lr = optimizer.param_groups[0].get("lr")
            # a schedule writes into a tensor
            self._lr = lr.detach().clone() if isinstance(lr, Tensor) else lr

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        metrics = validated_metrics(trainer, self.monitor)
        if not self._is_writing:
            return
        self._row = trainer.global_step, self.evaluations
        row = {
            "step": str(trainer.global_step),
            "seconds": repr(self.seconds),
            "evaluations": _count(self.evaluations),
            "lr": repr(math.nan if self._lr is None else float(self._lr)),
        }
        self._add({**row, **{name: repr(value) for name, value in metrics.items()}})

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.start_clock()  # where a validation was cut short

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_clock()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop_clock()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._passes is not None:
            self._passes.remove()

    def start_clock(self) -> None:
        """Count the seconds from now on."""
        if self._since is None:
            self._since = time.perf_counter()

    def _stop_clock(self) -> None:
        self._seconds, self._since = self.seconds, None

    def _begin_file(self, step: int) -> None:
        """Write the header and, of a run that is resumed, the lines before its checkpoint."""
        rows = read_rows(self.path) if step else []
        kept = [row for row in rows if self._row is not None and _is_up_to(row, *self._row)]
        self._metrics = [name for name in (rows or [{}])[0] if name not in HISTORY_COLUMNS]
        self._write([*kept])

    def _add(self, row: Mapping[str, str]) -> None:
        new = [name for name in row if name not in (*HISTORY_COLUMNS, *self._metrics)]
        self._metrics += new
        if new or self._unwritten is not None:
            before = read_rows(self.path) if self._unwritten is None else self._unwritten
            self._write([*before, row])
            return
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._format([row]))
        except OSError as error:
            self._keep([*read_rows(self.path), row], error)

    def _write(self, rows: list[Mapping[str, str]]) -> None:
        header = {name: name for name in (*HISTORY_COLUMNS, *self._metrics)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, self._format([header, *rows]))
            self._unwritten = None
        except OSError as error:
            self._keep(rows, error)

    def _format(self, rows: Iterable[Mapping[str, str]]) -> str:
        text = io.StringIO()
        columns = (*HISTORY_COLUMNS, *self._metrics)
        csv.DictWriter(text, columns, restval="nan", lineterminator="\n").writerows(rows)
        return text.getvalue()

    def _keep(self, rows: list[Mapping[str, str]], error: OSError) -> None:
        """Keep all lines until the file can be written again."""
        if self._unwritten is None:
            LOG.warning(f"{self.path}: cannot be written ({error.strerror}); training continues")
        self._unwritten = rows


class _Restart(Callback):
    """Starts the clock after a validation and the checkpoint that follows it."""

    def __init__(self, history: HistoryFile) -> None:
        self._history = history

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._history.start_clock()


class BackwardPasses:
    """Counts the backward passes of a module.

    Lightning tells of its own and of `manual_backward`. A module that optimizes manually may also
    call `backward` of its loss, or ask for gradients of its parameters; these see the pass.

    Args:
        module: what is trained.
    """

    def __init__(self, module: LightningModule) -> None:
        self.told = 0
        self._seen, self._newest = 0, -1
        manual = not module.automatic_optimization
        watched = [p for p in module.parameters() if p.requires_grad] if manual else []
        self._handles = [p.register_hook(self._note) for p in watched]  # type: ignore[no-untyped-call]

    @property
    def count(self) -> int:
        """The passes so far."""
        return max(self.told, self._seen)

    def _note(self, gradient: Tensor) -> None:
        number = torch._C._current_graph_task_id()  # one for each pass
        if number > self._newest:
            self._newest, self._seen = number, self._seen + 1

    def remove(self) -> None:
        """Stop counting."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the lines of a history as text by column; none where it is not a history.

    A line that was cut off, by a kill or a full disk, is left out.
    """
    try:
        whole, end, _ = read_text(path).rpartition("\n")
        lines = [*csv.reader(io.StringIO(whole + end, newline=""))]
    except (Unreadable, csv.Error):
        return []
    header, *rows = lines or [[]]
    if tuple(header[: len(HISTORY_COLUMNS)]) != HISTORY_COLUMNS:
        return []
    return [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]


def _is_up_to(row: Mapping[str, str], step: int, evaluations: float) -> bool:
    """Whether a line is not newer than another; a step may have several lines."""
    try:
        at, spent = int(row["step"]), float(row["evaluations"])
    except ValueError:  # cut off
        return False
    return at <= step and not spent > evaluations  # either may be NaN


def _count(value: float) -> str:
    return repr(value) if math.isnan(value) else str(round(value))
