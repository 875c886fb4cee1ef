"""What the runs of `bench_run.py` have in common: models, data, batches, losses, lrs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import get_class
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lit_optim.tasks.char_lm import GPT, CharText, Windows
from lit_optim.tasks.classification import Mnist1d
from lit_optim.tasks.data import Pairs, TensorTask


@dataclass(frozen=True)
class Task:
    """What all runs of a model have in common.

    Args:
        monitor: the metric by which a checkpoint is the best, and its direction.
        lr: at the peak.
        every: the updates between two validations; None: an epoch.
        val_batches: the batches of a validation; None: all.
        clip: the largest norm of a gradient; None: any.
    """

    monitor: tuple[str, str] = ("val/acc", "max")
    lr: float = 1e-2
    every: int | None = None
    val_batches: int | None = None
    clip: float | None = None

    @property
    def has_accuracy(self) -> bool:
        """Whether the accuracy is logged."""
        return self.monitor[0] == "val/acc"


CLASSIFIER = Task()
TASKS = {
    "cnn": CLASSIFIER,
    "mlp": CLASSIFIER,
    "linear": CLASSIFIER,
    "gru": CLASSIFIER,
    "gpt": Task(("val/loss", "min"), 1e-3, every=250, val_batches=20, clip=1.0),
}


def make_data(kind: str, text: str) -> TensorTask:
    """The data module of a model."""
    return CharText(text) if kind == "gpt" else Mnist1d()


def make_net(kind: str, data: Any) -> nn.Module:
    """A network of ours."""
    if kind == "gpt":
        return GPT(data.vocab_size, data.block)
    name = kind.title() if kind == "linear" else kind.upper()
    net: nn.Module = get_class(f"lit_optim.tasks.classifiers.{name}")(data.features, data.classes)
    return net


def loss_of(logits: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy of scores of any shape."""
    return cross_entropy(logits.flatten(0, -2), y.flatten())


def lr_factor(step: int, steps: int) -> float:
    """A linear warmup, and a cosine, as a fraction of the peak."""
    warmup = steps // 20
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step + 1 - warmup) / (steps - warmup))) / 2


def batches(data: TensorTask) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Batches in random order, without end; each with whether it is the last of its epoch."""
    dataset = data.train_set()
    while True:
        order = torch.split(torch.randperm(len(dataset)), data.batch_size)
        for number, chosen in enumerate(order, 1):
            yield *take(dataset, chosen), number == len(order)


def take(dataset: Pairs | Windows, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The samples with these indices."""
    if isinstance(dataset, Pairs):
        return dataset.x[chosen], dataset.y[chosen]
    at = chosen.unsqueeze(1) * dataset.stride + dataset.offsets
    return dataset.x[at], dataset.y[at + 1]
