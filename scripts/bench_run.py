"""Steps per second of a whole run of ours, beside a loop written by hand and bare Lightning.

    python scripts/bench_run.py                          the default CNN and the MLP, 1,000 steps
    python scripts/bench_run.py --models mlp --steps 3000 --threads 1 --markdown
    python scripts/bench_run.py --models gpt --text tinyshakespeare.txt --steps 500
    python scripts/bench_run.py --parts              where ours takes longer than the loop by hand

- `by hand` is a loop in plain torch: shuffled batches by indexing, `torch.optim.AdamW(fused=True)`,
  the lr set in each step, torch's SummaryWriter, `torch.save` of the best and the last weights with
  the optimizer. It has no hooks, no resuming in the middle, and nothing that looks for a loss that
  is not finite.
- `bare` is what a user of Lightning writes: a module that logs with `self.log` in its steps,
  `torch.optim.AdamW(params)`, a cosine with warmup in a LambdaLR, LearningRateMonitor,
  ModelCheckpoint and Lightning's own progress bar.
- `train.py` is `python train.py model=...`: our module, AdamW, `cosine_warmup` and callbacks.
- `train.py, bare's module` is the same with the module of `bare`, as `model=custom`.

All have the same network, data, batch size and lr, TensorBoard, loss and accuracy of training every
20 steps and of validation after every epoch, and keep the best and the last checkpoint. The GPT is
nanoGPT's example for CPUs: it validates 20 batches every 250 steps, and clips gradients. Ours
validates once more, after the last step, and logs the lr of two groups. There is no terminal, so no
bar is drawn.

Imports, set-up and the first steps are left out: the clock runs from step 20 to the last one,
validation and checkpoints included. Rounds of all are interleaved in one process. The machine
drifts, so a ratio is the median of the ratios within a round, with their range. On a machine that
is busy with other work `--cpu` counts the seconds of CPU, which leave out waiting for the disk.

`--parts` prints the median time of a plain step, of one that is logged, of one that follows such a
step or a validation, and of one with a validation and its checkpoints, by hand and in ours; and
what the difference adds to a step, on average over the run.
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
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import torch
from bench_tasks import TASKS, Task, batches, loss_of, lr_factor, make_data, make_net, take
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lit_optim.config.composing import compose_config
from lit_optim.runs.run import run

LOG_EVERY = 20
WARM = 20  # steps before the clock runs
HEAD = ("model", "run", "steps/s", "x by hand", "range")
#: The kinds of steps.
PLAIN, LOGGED, AFTER, VALIDATED = PARTS = ("plain", "logged", "after these", "validation")
PARTS_HEAD = ("model", "step", "by hand, us", "train.py, us", "in a mean step, us")


class Clock(Callback):
    """When each step of the last run of this process began, and when the last one ended."""

    marks: ClassVar[list[float]] = []
    now = time.perf_counter

    def on_train_start(self, *_: Any) -> None:  # noqa: D102
        Clock.marks.clear()

    def on_train_batch_start(self, *_: Any) -> None:  # noqa: D102
        Clock.marks.append(Clock.now())

    def on_train_end(self, *_: Any) -> None:  # noqa: D102
        Clock.marks.append(Clock.now())


class Usual(LightningModule):
    """A network of ours under a module as users write them."""

    def __init__(self, kind: str, text: str = "") -> None:
        super().__init__()
        data: Any = make_data(kind, text)
        self.kind = kind
        self.monitor = TASKS[kind].monitor
        self.net = make_net(kind, data)
        self.val_loss = MeanMetric()
        if TASKS[kind].has_accuracy:
            self.val_acc = MulticlassAccuracy(data.classes, average="micro")

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: D102
        x, y = batch
        logits = self(x)
        loss = loss_of(logits, y)
        self.log("train/loss", loss, prog_bar=True)
        if TASKS[self.kind].has_accuracy:
            self.log("train/acc", (logits.argmax(1) == y).float().mean())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: D102
        x, y = batch
        logits = self(x)
        self.val_loss.update(loss_of(logits, y), weight=len(x))
        self.log("val/loss", self.val_loss)
        if TASKS[self.kind].has_accuracy:
            self.val_acc.update(logits, y)
            self.log("val/acc", self.val_acc, prog_bar=True)


class Bare(Usual):
    """The same with torch's optimizer and scheduler."""

    def configure_optimizers(self) -> Any:  # noqa: D102
        optimizer = torch.optim.AdamW(self.parameters(), lr=TASKS[self.kind].lr)
        factor = partial(lr_factor, steps=self.trainer.max_steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def bare(kind: str, steps: int, folder: Path, text: str) -> None:
    """Train with Lightning alone."""
    seed_everything(0, workers=True, verbose=False)
    task = TASKS[kind]
    monitor, mode = task.monitor
    best = ModelCheckpoint(folder, "best", monitor=monitor, mode=mode, save_last=True)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        num_sanity_val_steps=0,
        log_every_n_steps=LOG_EVERY,
        check_val_every_n_epoch=1 if task.every is None else None,
        val_check_interval=task.every,
        limit_val_batches=task.val_batches,
        gradient_clip_val=task.clip,
        logger=TensorBoardLogger(folder),
        callbacks=[LearningRateMonitor(), best, Clock()],
        default_root_dir=folder,
    )
    trainer.fit(Bare(kind, text), make_data(kind, text))


def ours(kind: str, steps: int, folder: Path, text: str, custom: bool = False) -> None:
    """Do what `python train.py` does."""
    task = TASKS[kind]
    given = ["model=custom", "model._target_=bench_run.Usual", f"+model.kind={kind}"]
    given = [*given, f"+model.text='{text}'"] if custom else [f"model={kind}"]
    if kind == "gpt":
        given += ["data=char_lm", f"data.path='{text}'", f"trainer.gradient_clip_val={task.clip}"]
        given += [f"trainer.limit_val_batches={task.val_batches}"]
        given += [f"trainer.val_check_interval={task.every}"]
    cfg = compose_config(
        [
            *given,
            f"trainer.max_steps={steps}",
            f"trainer.log_every_n_steps={LOG_EVERY}",
            f"optimizer.lr={task.lr}",
            "test=false",
            f"trainer.threads={torch.get_num_threads()}",
            f"logger.tensorboard.save_dir={folder}",
            f"callbacks.checkpoint.dirpath={folder}",
            "+callbacks.clock._target_=bench_run.Clock",
            "allow=[bench_run]",
        ]
    )
    cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    run(cfg, folder, {"optimizer": "adamw", "scheduler": "cosine_warmup", "model": kind})


def by_hand(kind: str, steps: int, folder: Path, text: str) -> None:
    """Train with torch alone, as one does for one model."""
    torch.manual_seed(0)
    task, data = TASKS[kind], make_data(kind, text)
    data.prepare_data()
    data.setup("fit")
    net = make_net(kind, data)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=task.lr, fused=True)
    writer = SummaryWriter(folder)
    best = -math.inf
    net.train()
    Clock.marks.clear()
    for step, (x, y, ends_epoch) in zip(range(steps), batches(data), strict=False):
        Clock.marks.append(Clock.now())
        lr = task.lr * lr_factor(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        logits = net(x)
        loss = loss_of(logits, y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if task.clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), task.clip)
        optimizer.step()
        if (step + 1) % LOG_EVERY == 0:
            metrics = {"train/loss": loss.item(), "lr": lr}
            if task.has_accuracy:
                metrics["train/acc"] = (logits.argmax(1) == y).float().mean().item()
            write(writer, metrics, step)
        if ends_epoch if task.every is None else (step + 1) % task.every == 0:
            found = evaluate(net, data.val_set(), data.batch_size, task)
            write(writer, found, step)
            monitor, mode = task.monitor
            score = found[monitor] if mode == "max" else -found[monitor]
            content = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            if score > best:
                best = score
                torch.save(content, folder / "best.ckpt")
            torch.save(content, folder / "last.ckpt")
    Clock.marks.append(Clock.now())
    writer.close()


@torch.no_grad()
def evaluate(net: nn.Module, dataset: Any, batch_size: int, task: Task) -> dict[str, float]:
    """The metrics of a validation."""
    net.eval()
    losses, hits, count = [], [], 0
    for chosen in torch.split(torch.arange(len(dataset)), batch_size)[: task.val_batches]:
        x, y = take(dataset, chosen)
        logits = net(x)
        losses.append(loss_of(logits, y) * len(x))
        count += len(x)
        if task.has_accuracy:
            hits.append((logits.argmax(1) == y).sum())
    net.train()
    found = {"val/loss": float(torch.stack(losses).sum()) / count}
    return found | ({"val/acc": int(torch.stack(hits).sum()) / count} if hits else {})


def write(writer: SummaryWriter, metrics: dict[str, float], step: int) -> None:
    """Write scalars for TensorBoard."""
    for name, value in metrics.items():
        writer.add_scalar(name, value, step)


Train = Callable[[str, int, Path, str], None]
SIDES: dict[str, Train] = {
    "by hand": by_hand,
    "bare": bare,
    "train.py": ours,
    "train.py, bare's module": partial(ours, custom=True),
}


def time_steps(train: Train, kind: str, steps: int, text: str) -> list[float]:
    """The seconds of each step of one run, whose files and output are thrown away."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        train(kind, steps, Path(folder), text)
    return [end - begin for begin, end in pairwise(Clock.marks)][WARM:]


def measure(
    kind: str, steps: int, repeats: int, sides: list[str], text: str
) -> list[tuple[str, ...]]:
    """The rows of a model; ratios are to the first of `sides`."""
    found: dict[str, list[float]] = {side: [] for side in sides}
    for _ in track(range(repeats), description=kind, console=Console(stderr=True)):
        for side in sides:
            taken = time_steps(SIDES[side], kind, steps, text)
            found[side].append(len(taken) / sum(taken))
    rows: list[tuple[str, ...]] = []
    for side, values in found.items():
        ratios = [a / b for a, b in zip(values, found[sides[0]], strict=True)]
        spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
        rows.append((kind, side, f"{median(values):.0f}", f"{median(ratios):.2f}", spread))
    return rows


def measure_parts(kind: str, steps: int, repeats: int, text: str) -> list[tuple[str, ...]]:
    """The rows of a model, one for each kind of step."""
    data: Any = make_data(kind, text)
    data.prepare_data()
    data.setup("fit")
    every = TASKS[kind].every or math.ceil(len(data.train_set()) / data.batch_size)
    taken: dict[str, dict[str, list[float]]] = {}
    for _ in track(range(repeats), description=kind, console=Console(stderr=True)):
        for side in ("by hand", "train.py"):
            parts = taken.setdefault(side, {part: [] for part in PARTS})
            for step, seconds in enumerate(time_steps(SIDES[side], kind, steps, text), WARM):
                parts[part_of(step, every)].append(1e6 * seconds)
    by_hand, ours = taken.values()
    rows: list[tuple[str, ...]] = []
    for part in filter(by_hand.__getitem__, PARTS):
        middle, other = median(by_hand[part]), median(ours[part])
        share = len(ours[part]) / sum(map(len, ours.values()))
        rows.append(
            (kind, part, f"{middle:.0f}", f"{other:.0f}", f"{share * (other - middle):.0f}")
        )
    return rows


def part_of(step: int, every: int) -> str:
    """The kind of a step; `every` is the distance of validations."""
    if (step + 1) % every == 0:
        return VALIDATED
    if (step + 1) % LOG_EVERY == 0:
        return LOGGED
    return AFTER if step % LOG_EVERY == 0 or step % every == 0 else PLAIN


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="cnn,mlp", help=", ".join(TASKS))
    parser.add_argument("--text", default="", help="a text file, for the GPT")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch, in all runs")
    parser.add_argument("--cpu", action="store_true", help="seconds of CPU, on a busy machine")
    parser.add_argument("--without", default="", help="parts of the names of runs to leave out")
    parser.add_argument("--parts", action="store_true", help="the steps of each kind")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    args = parser.parse_args()
    kinds = args.models.split(",")
    if args.steps <= WARM or args.repeats < 1:
        parser.error(f"needs more than {WARM} steps and a repeat")
    if set(kinds) - TASKS.keys():
        parser.error(f"--models: {', '.join(TASKS)}")
    if "gpt" in kinds and not Path(args.text).is_file():
        parser.error("--text: the GPT needs a text file")
    left_out = [part for part in args.without.split(",") if part]
    sides = [side for side in SIDES if not any(part in side for part in left_out)]
    torch.set_num_threads(args.threads)
    if args.cpu:
        Clock.now = time.process_time
    text = str(Path(args.text).resolve()) if args.text else ""
    head, rows = HEAD, list[tuple[str, ...]]()
    for kind in kinds:
        if args.parts:
            head = PARTS_HEAD
            rows += measure_parts(kind, args.steps, args.repeats, text)
        else:
            rows += measure(kind, args.steps, args.repeats, sides, text)
    if args.markdown:
        for row in (head, ("---", "---", "--:", "--:", "--:"), *rows):
            print(f"| {' | '.join(row)} |")
        return
    table = Table(title=f"{args.steps} steps, {torch.get_num_threads()} threads")
    for index, name in enumerate(head):
        table.add_column(name, justify="left" if index < 2 else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    # its classes are named in the configuration, so they must be those of an importable module
    import_module("bench_run").main()
