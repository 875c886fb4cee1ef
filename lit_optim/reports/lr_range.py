"""The lr range test, `lit-optim lr-range`: trains a few updates while the lr rises."""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary
from omegaconf import DictConfig, open_dict

from lit_optim.callbacks.learning_rates import LearningRates
from lit_optim.callbacks.nonfinite import NonFinite
from lit_optim.callbacks.parameter_table import ParameterTable
from lit_optim.command_line.combinations import compose_one
from lit_optim.config.targets import TARGET, locate
from lit_optim.errors import UsageError, how_many
from lit_optim.printing import Console
from lit_optim.programs import train_command
from lit_optim.runs.build import build_run
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.phase_parser import phases
from lit_optim.updates import Updates, count_updates

#: The test begins this factor below an optimizer's usual range of lrs, and ends as far above.
WIDER = 10.0
#: The range of a class that declares none.
USUAL = (1e-4, 1e-1)
#: The loss has diverged when its average is this many times its minimum.
DIVERGED = 4.0
#: The average covers about 1 / (1 - MEMORY) updates.
MEMORY = 0.9
#: The fewest updates that make a curve.
LEAST = 20
#: NonFinite too: the test is looking for divergence.
SILENT = (ModelCheckpoint, ModelSummary, LearningRates, NonFinite, ParameterTable)


class Losses(Callback):
    """Records the loss of each update, and ends the run when it diverges."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.averages: list[float] = []
        self._sum, self._count, self._running = 0.0, 0, 0.0
        self._seen = 0
        self._updates: Updates | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._updates = count_updates(trainer.optimizers[0])

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor):
            value = trainer.strategy.reduce(loss.detach().float(), reduce_op="mean")
            self._sum += float(value) * trainer.accumulate_grad_batches
            self._count += 1
        assert self._updates is not None
        made, self._seen = self._updates.count - self._seen, self._updates.count
        if made and not self._count:
            raise UsageError(
                "lr-range needs the loss that training_step returns, and there was none: return "
                "it, in manual optimization too"
            )
        if not made:
            return
        for _ in range(made):  # in manual optimization a batch may make several
            self.note(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        if self.diverged:
            trainer.should_stop = True

    @property
    def diverged(self) -> bool:
        """Whether the average is not finite, or far above its minimum; a loss may be negative."""
        last, least = self.averages[-1], min(self.averages)
        return not math.isfinite(last) or last - least > (DIVERGED - 1) * abs(least)

    def note(self, loss: float) -> None:
        """Add a loss to the average, corrected for its start at 0."""
        self.values.append(loss)
        self._running = MEMORY * self._running + (1 - MEMORY) * loss
        self.averages.append(self._running / (1 - MEMORY ** len(self.values)))


@dataclass(frozen=True)
class Suggestion:
    """Two lrs read off the curve.

    Args:
        steepest: where the averaged loss falls fastest with the logarithm of the lr.
        below: a tenth of the lr at which it is lowest.
    """

    steepest: float
    below: float


def suggest_lr(lrs: Sequence[float], averages: Sequence[float]) -> Suggestion | None:
    """Suggest an lr by the averaged losses at rising lrs; None if the loss never falls."""
    finite = [loss if math.isfinite(loss) else math.inf for loss in averages]
    least = min(range(len(finite)), key=finite.__getitem__)
    skipped = len(finite) // 10  # the first averages cover few losses
    slopes = [
        ((finite[k + 1] - finite[k - 1]) / math.log(lrs[k + 1] / lrs[k - 1]), k)
        for k in range(max(1, skipped), min(least, len(finite) - 2) + 1)
    ]
    if not slopes or min(slopes)[0] >= 0:
        return None
    return Suggestion(lrs[min(slopes)[1]], lrs[least] / 10)


def lr_range(
    lines: list[str], console: Console, steps: int, low: float | None, high: float | None
) -> Path:
    """Train while the lr rises, and write the losses into a new directory.

    Smith 2017, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186, section 3.3.
    The lr rises from `low` to `high` by the same factor in each update; the ratios of the groups
    stay, and the printed lr is the largest. Nothing else is written: no weights, no checkpoint.

    Args:
        lines: overrides as for train.py, of one run; their scheduler is not used.
        console: for the suggestion.
        steps: the number of updates.
        low: the first lr; None: a tenth of the optimizer's lowest usual lr.
        high: the last lr; None: ten times its highest usual lr.

    Returns:
        The directory, which the first of several processes writes.

    Raises:
        UsageError: a mistake, or no curve to read.
    """
    cfg = compose_one(lines)
    if steps < LEAST:
        raise UsageError(f"--steps must be at least {LEAST}, got {steps}: too few for a curve")
    own, choice = cfg.optimizer.get("lr"), cfg.hydra.runtime.choices.optimizer
    if own is None:
        raise UsageError(f"optimizer={choice} has no lr")
    declared = getattr(locate("optimizer", cfg.optimizer[TARGET]), "lr_range", USUAL)
    low = declared[0] / WIDER if low is None else low
    high = declared[1] * WIDER if high is None else high
    if not 0 < low < high:
        raise UsageError(f"--from={low:g} must be > 0 and below --to={high:g}")
    rising = [{"shape": "exponential", "from": low / own, "to": high / own}]
    _shorten_run(cfg, steps)
    path = Path("runs") / f"{datetime.now():%Y-%m-%d/%H-%M-%S-%f}_lr_range_{choice}"
    losses = Losses()
    parts = build_run(cfg, path, [losses], SILENT, logs=False, scheduler=phases(rising))
    is_first = parts.trainer.is_global_zero
    with _new_directory(path) if is_first else nullcontext():
        parts.trainer.fit(parts.model, parts.data)
        if not is_first:
            return path
        curve = phases(rising).curve(Horizon(steps))
        lrs = [curve(t, own) for t in range(len(losses.values))]
        if len(lrs) < LEAST:
            raise UsageError(
                f"the loss diverged after {how_many(len(lrs), 'update')}, at "
                f"lr={lrs[-1] if lrs else low:.3g}: begin lower with --from"
            )
        found = suggest_lr(lrs, losses.averages)
        try:
            _write(path, lrs, losses, found, choice)
        except OSError as error:
            raise UsageError(f"{path}: cannot write there: {error.strerror or error}") from None
    _print_suggestion(console, path, found, low, high)
    if found is not None:
        kept = [line for line in lines if line.lstrip("+").partition("=")[0] != "optimizer.lr"]
        line = " ".join(map(shlex.quote, [*kept, f"optimizer.lr={found.steepest:.2g}"]))
        console.print(f"next   {train_command()} {line}", soft_wrap=True, markup=False)
    return path


@contextmanager
def _new_directory(path: Path) -> Iterator[None]:
    """A new directory, before anything is trained for it; one that stays empty is removed.

    Raises:
        UsageError: it cannot be made.
    """
    made = [one for one in (path, *path.parents) if not one.exists()]
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot write there: {error.strerror or error}") from None
    try:
        yield
    finally:
        with suppress(OSError):  # from one on that has files
            for one in made:
                one.rmdir()


def _shorten_run(cfg: DictConfig, steps: int) -> None:
    """Make the run as long as the test, without validation."""
    with open_dict(cfg):
        cfg.trainer.update(
            max_steps=steps,
            max_epochs=-1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_model_summary=False,
        )


def _write(
    path: Path, lrs: list[float], losses: Losses, found: Suggestion | None, optimizer: str
) -> None:
    from matplotlib.figure import Figure

    with (path / "lr_range.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lr", "loss", "average"])
        writer.writerows(zip(lrs, losses.values, losses.averages, strict=True))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(lrs, losses.values, color="0.8", linewidth=1, label="loss of an update")
    axes.plot(lrs, losses.averages, label="averaged")
    if found is not None:
        marks = (
            (found.steepest, "C2", "steepest"),
            (found.below, "C3", "a tenth of the minimum's lr"),
        )
        for lr, color, meaning in marks:
            axes.axvline(lr, color=color, linestyle="--", label=f"{lr:.2g}: {meaning}")
    top = max(loss for loss in losses.averages[:LEAST] if math.isfinite(loss))
    low = min(loss for loss in losses.averages if math.isfinite(loss))
    margin = max(top - low, 0.1 * abs(top)) / 2
    axes.set_ylim(low - margin, top + margin)
    axes.set(xscale="log", xlabel="optimizer.lr", ylabel="training loss")
    axes.set_title(f"{optimizer}: the loss while the lr rises")
    axes.legend()
    figure.savefig(path / "lr_range.png", dpi=120)


def _print_suggestion(
    console: Console, path: Path, found: Suggestion | None, low: float, high: float
) -> None:
    if found is None:
        console.print(
            f"the loss does not fall anywhere between lr={low:g} and {high:g}: no suggestion"
        )
    else:
        console.print(
            f"optimizer.lr={found.steepest:.2g}  where the loss falls fastest\n"
            f"optimizer.lr={found.below:.2g}  one tenth of the lr with the lowest loss"
        )
    console.print(f"curve  {path / 'lr_range.png'}", soft_wrap=True)
