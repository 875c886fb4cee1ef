"""The models log the same as a module that calls `self.log` for every batch."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch.nn.functional import cross_entropy

from lit_optim.tasks.char_lm import GPT, IGNORED, CharText
from lit_optim.tasks.classification import Classification
from lit_optim.tasks.classifiers import MLP

TEXT = "to be or not to be, that is the question\n" * 6


class Notes(Logger):
    """Records what it gets: (step, name) -> value."""

    name = "notes"
    version = 0

    def __init__(self):
        super().__init__()
        self.logged: dict[tuple[int, str], float] = {}

    def log_metrics(self, metrics, step=None):
        self.logged |= {(step, name): float(value) for name, value in metrics.items()}

    def log_hyperparams(self, *args, **kwargs):
        pass


class Blobs(Classification):
    features, classes = 5, 3

    def arrays(self):
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(90, 5, generator=generator).numpy()
        y = torch.randint(3, (90,), generator=generator).numpy()
        return {"x": x[:70], "y": y[:70], "x_test": x[70:], "y_test": y[70:]}


class Stop(Callback):
    """Ends the run after an update that is not a logged one."""

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.should_stop or trainer.global_step == 6


class AtValidation(Callback):
    """Records the metrics that are visible after a validation."""

    def __init__(self):
        self.seen: list[dict[str, float]] = []

    def on_validation_end(self, trainer, *args):
        self.seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})


class EveryBatch(LightningModule):
    """The same model with plain sums instead of torchmetrics."""

    def __init__(self, model, accuracy):
        super().__init__()
        self.model = model
        self.accuracy = accuracy
        self.rows: list[tuple[float, float, int]] = []

    def scores(self, batch):
        x, y = batch
        logits, y = self.model(x).flatten(0, -2), y.flatten()
        logits, y = logits[y != IGNORED], y[y != IGNORED]
        return cross_entropy(logits, y), (logits.argmax(1) == y).double().mean(), len(y)

    def training_step(self, batch, batch_idx):
        loss, acc, _ = self.scores(batch)
        self.log("train/loss", loss)
        if self.accuracy:
            self.log("train/acc", acc)
        return loss

    def validation_step(self, batch, batch_idx):
        self.rows.append(tuple(map(float, self.scores(batch))))

    def on_validation_epoch_end(self):
        total = sum(count for *_, count in self.rows)
        self.log("val/loss", sum(loss * count for loss, _, count in self.rows) / total)
        if self.accuracy:
            self.log("val/acc", sum(acc * count for _, acc, count in self.rows) / total)
        self.rows.clear()


def fitted(module, data, root, **limits):
    """Return the logged values, and the visible ones at each validation."""
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.1)
    notes, at_validation = Notes(), AtValidation()
    callbacks = [at_validation] + ([Stop()] if limits.pop("stop", False) else [])
    Trainer(
        accelerator="cpu",
        logger=notes,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        default_root_dir=root,
        **limits,
    ).fit(module, data)
    return notes.logged, at_validation.seen


@pytest.mark.parametrize(
    "limits",
    [
        {"max_epochs": 2, "log_every_n_steps": 4},
        {"max_epochs": 2, "log_every_n_steps": 1},
        {"max_epochs": 4, "log_every_n_steps": 2, "accumulate_grad_batches": 3},
        {"max_epochs": 2, "log_every_n_steps": 4, "stop": True},
    ],
    ids=["every 4", "every 1", "accumulating", "stopped in between"],
)
@pytest.mark.parametrize("kind", ["mlp", "gpt"])
def test_the_same_is_logged_as_by_logging_every_batch(kind, limits, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")

    def pair():
        torch.manual_seed(0)
        if kind == "mlp":
            return MLP(features=5, classes=3, width=7), Blobs(batch_size=8)
        data = CharText(str(tmp_path / "text.txt"), batch_size=28, block=8)
        return GPT(data.vocab_size, 8, layers=1, heads=1, width=8), data

    model, data = pair()
    logged, seen = fitted(model, data, tmp_path, **limits)
    model, data = pair()
    expected, at_validation = fitted(EveryBatch(model, kind == "mlp"), data, tmp_path, **limits)
    assert {"train/loss", "val/loss"} <= {name for _, name in expected}
    assert logged == pytest.approx(expected, abs=1e-5)
    assert len(seen) == len(at_validation) > 0
    for ours, theirs in zip(seen, at_validation, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
