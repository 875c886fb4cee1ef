"""The four models of the MNIST-1D paper (Greydanus & Kobak 2024, arXiv:2011.14439).

They take vectors of any length; `features` and `classes` come from the data. None of them defines
`configure_optimizers`: the run attaches an optimizer.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu
from torchmetrics.aggregation import MeanMetric

from lit_optim.tasks.logged import is_logged
from lit_optim.tasks.losses import evaluate_cross_entropy
from lit_optim.tasks.sizes import check_sizes

Size = Annotated[int, "> 0"]
Batch = tuple[Tensor, Tensor]


class Mean(MeanMetric):
    """torchmetrics' mean, to which a single number is added without its checks."""

    def add(self, value: Tensor, weight: int) -> None:
        """Do what `update(value, weight)` does; a NaN is left out, with a warning."""
        if value.dtype != self.mean_value.dtype or math.isnan(value.item()):
            self.update(value, weight)
            return
        self._add_sum(value.detach() * weight, weight)

    def _add_sum(self, value: Tensor, weight: int) -> None:
        self._computed, self._update_count = None, self._update_count + 1
        self.mean_value.add_(value)
        self.weight.add_(weight)


class Accuracy(Mean):
    """The share of samples whose class has the largest score.

    As torchmetrics' MulticlassAccuracy of all samples, which imports a second of other metrics.
    """

    higher_is_better = True  # type: ignore[assignment]

    def update(self, logits: Tensor, y: Tensor) -> None:  # type: ignore[override]
        """Add a batch of logits of shape (batch, classes), and the classes."""
        super().update((logits.argmax(1) == y).float())

    def add_batch(self, logits: Tensor, y: Tensor) -> None:
        """Do what `update` does, in less time."""
        self._add_sum((logits.argmax(1) == y).sum(), len(y))


class Scores(nn.Module):
    """Mean loss and accuracy over a whole set, on all devices together."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = Mean()
        self.acc = Accuracy()


class Classifier(LightningModule):
    """Cross-entropy on (x of shape (batch, features), class of shape (batch,)).

    Logs `train/loss`, `train/acc` at every logged step and at the end of an epoch, and `val/...`,
    `test/...` over whole sets.
    """

    monitor = ("val/acc", "max")

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.val_scores = Scores()
        self.test_scores = Scores()

    def setup(self, stage: str) -> None:
        check_sizes(self, equal=("features",), at_least=("classes",))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        logits = self(x)
        loss = cross_entropy(logits, y)
        # Lightning divides "loss" when accumulating
        return {"loss": loss, "mean": loss.detach(), "logits": logits.detach()}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if outputs and is_logged(self.trainer):
            x, y = batch
            acc = (outputs["logits"].argmax(1) == y).float().mean()
            self.log("train/loss", outputs["mean"], prog_bar=True, batch_size=len(x))
            self.log("train/acc", acc, batch_size=len(x))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(self.val_scores, batch)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val", self.val_scores)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(self.test_scores, batch)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test", self.test_scores)

    def _evaluate(self, scores: Scores, batch: Batch) -> None:
        x, y = batch
        logits = self(x)
        scores.loss.add(evaluate_cross_entropy(logits, y), weight=len(x))
        scores.acc.add_batch(logits, y)

    def _log_scores(self, stage: str, scores: Scores) -> None:
        self.log(f"{stage}/loss", scores.loss)
        self.log(f"{stage}/acc", scores.acc, prog_bar=True)


class Linear(Classifier):
    """Logistic regression.

    Args:
        features: the length of a sample.
        classes: the number of classes.
    """

    def __init__(self, features: Size, classes: Size) -> None:
        super().__init__(classes)
        self.out = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features) -> (batch, classes)."""
        logits: Tensor = self.out(x)
        return logits


class MLP(Classifier):
    """Two hidden layers, the second residual.

    Args:
        features: the length of a sample.
        classes: the number of classes.
        width: of the hidden layers.
        bias: whether layers have a bias. Without, all parameters are matrices, as for Muon.
    """

    def __init__(self, features: Size, classes: Size, width: Size = 100, bias: bool = True) -> None:
        super().__init__(classes)
        self.first = nn.Linear(features, width, bias=bias)
        self.second = nn.Linear(width, width, bias=bias)
        self.out = nn.Linear(width, classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features) -> (batch, classes)."""
        h = relu(self.first(x))
        h = h + relu(self.second(h))
        logits: Tensor = self.out(h)
        return logits


class CNN(Classifier):
    """Three strided convolutions over the vector, then a linear layer.

    Args:
        features: the length of a sample.
        classes: the number of classes.
        channels: of each convolution.
    """

    def __init__(self, features: Size, classes: Size, channels: Size = 25) -> None:
        super().__init__(classes)
        self.conv = nn.Sequential(
            nn.Conv1d(1, channels, 5, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(channels, channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(channels, channels, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        length = self.conv(torch.zeros(1, 1, features)).numel()
        self.out = nn.Linear(length, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features) -> (batch, classes)."""
        logits: Tensor = self.out(self.conv(x.unsqueeze(1)).flatten(1))
        return logits


class GRU(Classifier):
    """A bidirectional GRU over the points of the vector; a linear layer reads all its outputs.

    Args:
        features: the length of a sample.
        classes: the number of classes.
        hidden: units in each direction.
    """

    def __init__(self, features: Size, classes: Size, hidden: Size = 6) -> None:
        super().__init__(classes)
        self.gru = nn.GRU(1, hidden, batch_first=True, bidirectional=True)
        self.out = nn.Linear(features * 2 * hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features) -> (batch, classes)."""
        outputs, _ = self.gru(x.unsqueeze(2))
        logits: Tensor = self.out(outputs.flatten(1))
        return logits
