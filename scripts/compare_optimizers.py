"""Every optimizer on one small task, at equal budget: 6 trials of its lr, then 5 seeds of the best.

    python scripts/compare_optimizers.py                       mnist1d, every optimizer
    python scripts/compare_optimizers.py --task char_lm --data input.txt --optimizers adamw,muon
    python scripts/compare_optimizers.py --write               the table goes into the docs

An optimizer's trials are of equal steps, at lrs that divide its own `lr_range` evenly, with its
other arguments as they are by default; the best is that with the lowest validation loss at the end.
All have the schedule cosine_warmup, but those that want a steady lr, which have constant_warmup.
Then the best lr runs with seeds that were not searched with; the table tells the mean of those and
its standard error, never the search's own run. A step's time is the median of one thread's.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import Progress
from torch.nn.functional import cross_entropy

from lit_optim.config.places import listed_choices
from lit_optim.config.targets import make_factory
from lit_optim.param_groups import by_role, no_decay
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import constant_warmup, cosine_warmup
from lit_optim.tasks.char_lm import GPT, CharText
from lit_optim.tasks.classification import Mnist1d
from lit_optim.tasks.classifiers import CNN
from lit_optim.training.requirements import requirements_of

DOCS = Path(__file__).parent.parent / "docs" / "optimizers.md"
#: Not comparable here, and why.
LEFT_OUT = {
    "sparse_adam": "for sparse gradients",
    "muon_torch": "for matrices alone",
    "lbfgs": "evaluates the loss up to 20 times in a step: no equal budget",
}
#: What an optimizer must be told to take an lr at all.
SETTINGS: dict[str, dict[str, Any]] = {
    "adafactor_hf": {"relative_step": False, "scale_parameter": False}
}
#: The validation metric that counts as there: accuracy, or nats per character.
TARGET = {"mnist1d": 0.80, "char_lm": 2.2}
TRIALS, SEEDS, LOOKS = 6, 5, 20


@dataclass(frozen=True)
class Task:
    """Data and a model for it.

    Args:
        make: a model.
        batches: of training, for a seed.
        loss: of a model on a batch.
        validate: the loss and the metric of a model.
        test: the metric that is told at the end.
        better: whether a metric is the target or better.
    """

    make: Callable[[], Any]
    batches: Callable[[int], Iterator[Any]]
    loss: Callable[[Any, Any], torch.Tensor]
    validate: Callable[[Any], tuple[float, float]]
    test: Callable[[Any], float]
    better: Callable[[float], bool]


def mnist1d() -> Task:
    """The CNN of the paper on MNIST-1D; accuracy."""
    data = Mnist1d()
    data.prepare_data()
    data.setup("fit")

    def batches(seed: int) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(seed)
        train = data.train_set()
        while True:
            order = torch.randperm(len(train), generator=generator).tolist()
            for start in range(0, len(order) - data.batch_size + 1, data.batch_size):
                yield train[order[start : start + data.batch_size]]

    def scores(model: Any, pairs: Any) -> tuple[float, float]:
        x, y = pairs[list(range(len(pairs)))]
        with torch.no_grad():
            logits = model(x)
        return cross_entropy(logits, y).item(), (logits.argmax(1) == y).double().mean().item()

    return Task(
        make=lambda: CNN(features=40, classes=10),
        batches=batches,
        loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        validate=lambda model: scores(model, data.val_set()),
        test=lambda model: scores(model, data.test_set())[1],
        better=lambda metric: metric >= TARGET["mnist1d"],
    )


def char_lm(path: str | None) -> Task:
    """A GPT of 4 layers on the characters of a text; nats per character."""
    data = CharText(path)
    train, val = data.train_set(), data.val_set()

    def batches(seed: int) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield train[torch.randint(len(train), (12,), generator=generator).tolist()]

    def loss(model: Any, batch: Any) -> torch.Tensor:
        return cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    def validate(model: Any) -> tuple[float, float]:
        model.eval()
        with torch.no_grad():
            found = loss(model, val[list(range(0, len(val), 4))]).item()
        model.train()
        return found, found

    return Task(
        make=lambda: GPT(vocab_size=data.vocab_size, block=64),
        batches=batches,
        loss=loss,
        validate=validate,
        test=lambda model: validate(model)[0],
        better=lambda metric: metric <= TARGET["char_lm"],
    )


def node_of(name: str) -> DictConfig:
    """The YAML of an optimizer, without what it chooses of other groups."""
    node = OmegaConf.load(listed_choices("optimizer")[name])
    assert isinstance(node, DictConfig)
    node.pop("defaults", None)
    return node


def trained(task: Task, name: str, lr: float, seed: int, steps: int) -> dict[str, float]:
    """One run: validation loss at the end, test metric, steps to the target, time of a step."""
    torch.manual_seed(seed)
    model = task.make()
    node = node_of(name)
    for key, value in (SETTINGS.get(name, {}) | {"lr": lr}).items():
        node[key] = value
    make = make_factory(node)
    groups_ = no_decay(model)
    needs = requirements_of(make)
    optimizer: Any = make(by_role(groups_, model) if "roles" in needs else groups_)
    schedule = constant_warmup() if "steady_lr" in needs else cosine_warmup()
    scheduler = ScheduledLR(optimizer, schedule.curve(Horizon(steps)))
    batches, there, times = task.batches(seed), math.inf, []
    for step in range(steps):
        optimizer.zero_grad()
        loss = task.loss(model, next(batches))
        loss.backward()  # type: ignore[no-untyped-call]
        start = time.perf_counter()
        optimizer.step()
        times.append(time.perf_counter() - start)
        scheduler.step()
        if not math.isfinite(loss):
            return {"loss": math.inf, "test": math.nan, "there": math.inf, "step": median(times)}
        if (step + 1) % max(1, steps // LOOKS) == 0:
            if "train_eval" in needs:
                optimizer.eval()
            found, metric = task.validate(model)
            if there == math.inf and task.better(metric):
                there = step + 1
            if step + 1 < steps and "train_eval" in needs:
                optimizer.train()
    end = found if math.isfinite(found) else math.inf
    return {"loss": end, "test": task.test(model), "there": there, "step": median(times)}


def compared(job: tuple[str, str, str | None, int]) -> dict[str, Any]:
    """The search and the seeds of one optimizer."""
    name, kind, path, steps = job
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    task = mnist1d() if kind == "mnist1d" else char_lm(path)
    low, high = make_factory(node_of(name)).func.lr_range  # type: ignore[attr-defined]
    lrs = [low * (high / low) ** (k / (TRIALS - 1)) for k in range(TRIALS)]
    searched = [trained(task, name, lr, 0, steps)["loss"] for lr in lrs]
    lr = lrs[min(range(TRIALS), key=lambda k: searched[k])]
    runs = [trained(task, name, lr, seed, steps) for seed in range(1, SEEDS + 1)]
    return {"name": name, "lr": lr, "edge": lr in (lrs[0], lrs[-1]), "runs": runs}


def table(kind: str, results: list[dict[str, Any]]) -> list[str]:
    """The lines of a markdown table, the best first."""
    percent = kind == "mnist1d"
    unit = "test accuracy, %" if percent else "validation loss, nats"
    goal = f"{100 * TARGET[kind]:g} %" if percent else f"{TARGET[kind]:g} nats"
    lines = [
        f"| optimizer | lr | {unit} | steps to {goal} (validation) | step, ms |",
        "|---|--:|--:|--:|--:|",
    ]
    rows = []
    for one in results:
        tests = [run["test"] for run in one["runs"]]
        found = [100 * test if percent else test for test in tests]
        failed = not all(map(math.isfinite, found))
        centre = math.nan if failed else mean(found)
        error = math.nan if failed else stdev(found) / math.sqrt(len(found))
        steps = [run["there"] for run in one["runs"]]
        arrived = [step for step in steps if math.isfinite(step)]
        when = f"{median(arrived):.0f}" if len(arrived) == len(steps) else "-"
        if arrived and len(arrived) < len(steps):
            when = f"{median(arrived):.0f} ({len(arrived)} of {len(steps)})"
        took = 1000 * median(run["step"] for run in one["runs"])
        lr = f"{one['lr']:.2g}{' (edge)' if one['edge'] else ''}"
        told = "diverged" if failed else f"{centre:.{1 if percent else 3}f} ± {error:.2g}"
        key = -math.inf if failed else (centre if percent else -centre)
        rows.append((key, f"| `{one['name']}` | {lr} | {told} | {when} | {took:.2f} |"))
    return lines + [row for _, row in sorted(rows, reverse=True)]


def main() -> None:
    """Run, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=sorted(TARGET), default="mnist1d")
    parser.add_argument("--data", help="the text of char_lm")
    parser.add_argument("--optimizers", help="names with commas; without it all")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="a JSON of results to go on with and to fill")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCS.name}")
    args = parser.parse_args()
    known = [name for name in sorted(listed_choices("optimizer")) if name not in LEFT_OUT]
    names = args.optimizers.split(",") if args.optimizers else known
    for name in names:
        if name not in known:
            why = LEFT_OUT.get(name, "there is no such optimizer")
            sys.exit(f"compare_optimizers: --optimizers={name}: {why}")
    if args.task == "char_lm" and not args.data:
        sys.exit("compare_optimizers: --task char_lm needs --data, a text file")
    kept = json.loads(args.keep.read_text()) if args.keep and args.keep.exists() else []
    done = {one["name"] for one in kept}
    jobs = [(name, args.task, args.data, args.steps) for name in names if name not in done]
    context = multiprocessing.get_context("spawn")
    with Progress(console=Console(stderr=True)) as progress, context.Pool(args.jobs) as pool:
        for one in progress.track(pool.imap_unordered(compared, jobs), total=len(jobs)):
            kept.append(one)
            if args.keep:
                args.keep.write_text(json.dumps(kept))
    lines = table(args.task, [one for one in kept if one["name"] in names])
    print("\n".join(lines))
    if args.write:
        begin, end = f"<!-- {args.task} -->\n", f"<!-- /{args.task} -->"
        text = DOCS.read_text("utf-8")
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        DOCS.write_text(before + begin + "\n".join(lines) + "\n" + end + after, "utf-8")


if __name__ == "__main__":
    main()
