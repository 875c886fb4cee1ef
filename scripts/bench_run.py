"""Steps per second of a whole run of ours, beside bare Lightning doing the same work.

    python scripts/bench_run.py                          the default CNN and the MLP, 1,000 steps
    python scripts/bench_run.py --models mlp --steps 3000 --threads 1 --markdown

- `bare` is what a user of Lightning writes: a module that logs with `self.log` in its steps,
  `torch.optim.AdamW(params)`, a cosine with warmup in a LambdaLR, LearningRateMonitor,
  ModelCheckpoint and Lightning's own progress bar.
- `train.py` is `python train.py model=...`: our module, AdamW, `cosine_warmup` and callbacks.
- `train.py, bare's module` is the same with the module of `bare`, as `model=custom`.

All have the same network, data module, batch size and lr, TensorBoard, loss and accuracy of
training every 20 steps and of validation after every epoch, and keep the best and the last
checkpoint. Ours validates once more, after the last step, and logs the lr of two groups. There is
no terminal, so no bar is drawn.

Imports, set-up and the first steps are left out: the clock runs from step 20 to the last one,
validation and checkpoints included. Rounds of the three are interleaved in one process. The machine
drifts, so a ratio is the median of the ratios within a round, with their range.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hydra.utils import get_class
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lit_optim.config.composing import compose_config
from lit_optim.runs.run import run
from lit_optim.tasks.classification import Mnist1d

LR = 1e-2
LOG_EVERY = 20
WARM = 20  # steps before the clock runs
HEAD = ("model", "run", "steps/s", "x bare", "range")


class Clock(Callback):
    """Steps per second of the last run of this process."""

    found = 0.0
    start = 0.0

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:  # noqa: D102
        if trainer.global_step == WARM:
            self.start = time.perf_counter()

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:  # noqa: D102
        Clock.found = (trainer.global_step - WARM) / (time.perf_counter() - self.start)


class Usual(LightningModule):
    """A network of ours under a module as users write them."""

    monitor = ("val/acc", "max")

    def __init__(self, kind: str, features: int, classes: int) -> None:
        super().__init__()
        name = kind.title() if kind == "linear" else kind.upper()
        self.net = get_class(f"lit_optim.tasks.classifiers.{name}")(features, classes)
        self.val_loss = MeanMetric()
        self.val_acc = MulticlassAccuracy(classes, average="micro")

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: D102
        x, y = batch
        logits = self(x)
        loss = cross_entropy(logits, y)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/acc", (logits.argmax(1) == y).float().mean())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: D102
        x, y = batch
        logits = self(x)
        self.val_loss.update(cross_entropy(logits, y), weight=len(x))
        self.val_acc.update(logits, y)
        self.log("val/loss", self.val_loss)
        self.log("val/acc", self.val_acc, prog_bar=True)


class Bare(Usual):
    """The same with torch's optimizer and scheduler."""

    def configure_optimizers(self) -> Any:  # noqa: D102
        optimizer = torch.optim.AdamW(self.parameters(), lr=LR)
        steps = self.trainer.max_steps
        warmup = steps // 20

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return (1 + math.cos(math.pi * (step + 1 - warmup) / (steps - warmup))) / 2

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def bare(kind: str, steps: int, folder: Path) -> None:
    """Train with Lightning alone."""
    seed_everything(0, workers=True, verbose=False)
    best = ModelCheckpoint(folder, "best", monitor="val/acc", mode="max", save_last=True)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        num_sanity_val_steps=0,
        log_every_n_steps=LOG_EVERY,
        logger=TensorBoardLogger(folder),
        callbacks=[LearningRateMonitor(), best, Clock()],
        default_root_dir=folder,
    )
    data = Mnist1d()
    trainer.fit(Bare(kind, data.features, data.classes), data)


def ours(kind: str, steps: int, folder: Path, custom: bool = False) -> None:
    """Do what `python train.py` does."""
    model = ["model=custom", "model._target_=bench_run.Usual", f"+model.kind={kind}"]
    cfg = compose_config(
        [
            *(model if custom else [f"model={kind}"]),
            f"trainer.max_steps={steps}",
            f"trainer.log_every_n_steps={LOG_EVERY}",
            f"optimizer.lr={LR}",
            "test=false",
            f"logger.tensorboard.save_dir={folder}",
            f"callbacks.checkpoint.dirpath={folder}",
            "+callbacks.clock._target_=bench_run.Clock",
            "allow=[bench_run]",
        ]
    )
    cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    run(cfg, folder, {"optimizer": "adamw", "scheduler": "cosine_warmup", "model": kind})


SIDES: dict[str, Callable[[str, int, Path], None]] = {
    "bare": bare,
    "train.py": ours,
    "train.py, bare's module": partial(ours, custom=True),
}


def steps_per_second(train: Callable[[str, int, Path], None], kind: str, steps: int) -> float:
    """Of one run, whose files and words are thrown away."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        train(kind, steps, Path(folder))
    return Clock.found


def measure(kind: str, steps: int, repeats: int) -> list[tuple[str, ...]]:
    """The rows of a model."""
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in track(range(repeats), description=kind, console=Console(stderr=True)):
        for side, train in SIDES.items():
            found[side].append(steps_per_second(train, kind, steps))
    rows: list[tuple[str, ...]] = []
    for side, values in found.items():
        ratios = [a / b for a, b in zip(values, found["bare"], strict=True)]
        spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
        rows.append((kind, side, f"{median(values):.0f}", f"{median(ratios):.2f}", spread))
    return rows


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="cnn,mlp", help="cnn, mlp, linear, gru")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch; 1 is steadier on a busy machine")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    args = parser.parse_args()
    if args.steps <= WARM or args.repeats < 1:
        parser.error(f"needs more than {WARM} steps and a repeat")
    torch.set_num_threads(args.threads or torch.get_num_threads())
    rows = [
        row for kind in args.models.split(",") for row in measure(kind, args.steps, args.repeats)
    ]
    if args.markdown:
        for row in (HEAD, ("---", "---", "--:", "--:", "--:"), *rows):
            print(f"| {' | '.join(row)} |")
        return
    table = Table(title=f"{args.steps} steps, {torch.get_num_threads()} threads")
    for index, name in enumerate(HEAD):
        table.add_column(name, justify="left" if index < 2 else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    # its classes are named in the configuration, so they must be those of an importable module
    import_module("bench_run").main()
