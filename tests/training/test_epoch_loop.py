"""The shorter loop over batches does what Lightning's does, to the bit and in the same order."""

from __future__ import annotations

from functools import partial

import lightning
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, TensorDataset

from lit_optim.training import epoch_loop
from lit_optim.training.batch_plan import COMPARED_VERSIONS
from lit_optim.training.epoch_loop import EpochLoop
from lit_optim.training.overrides import BATCH_HOOKS as HOOKS
from lit_optim.training.overrides import shorten_epoch_loop
from tests.lightning.modules import trainer
from tests.training.loop_cases import CASES, Net, Rare, Silent, Two


class Lines(Logger):
    """Keeps what it is given."""

    name, version = "lines", 0

    def __init__(self):
        super().__init__()
        self.lines = []

    def log_metrics(self, metrics, step=None):
        self.lines.append((step, dict(metrics)))

    def log_hyperparams(self, *args, **kwargs):
        pass


def describe(value):
    """What can be compared of an argument of a hook."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: describe(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [describe(one) for one in value]
    return value if isinstance(value, int | float | None) else type(value).__name__


class Recorder(Callback):
    """Notes every hook of a batch, with what can be seen of the run in it."""

    def __init__(self, hooks=HOOKS):
        self.seen = []
        for hook in hooks:
            setattr(self, hook, partial(self.note, hook))

    def note(self, hook, trainer, module, *args):
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        place = trainer.global_step, trainer.current_epoch, vars(progress).copy()
        self.seen.append((hook, module._current_fx_name, place, metrics, describe(args)))


def run(tmp_path, kind, arguments, callbacks, prepare):
    """Train; return everything that can be compared."""
    lines, module = Lines(), kind()
    recorder = Recorder(() if kind in (Silent, Rare) else HOOKS)
    more = callbacks() if callbacks else []
    more = more if isinstance(more, list) else [more]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(14, 3, generator=generator)
    held_out = [DataLoader(TensorDataset(x[:6]), 2)] * (2 if kind is Two else 1)
    batches = getattr(kind, "load", Net.load)(x), held_out
    fits = {"max_epochs": 3, "num_sanity_val_steps": 1, "log_every_n_steps": 3} | arguments
    made = prepare(trainer(tmp_path, logger=lines, callbacks=[recorder, *more], **fits))
    made.fit(module, *batches)
    loops = made.fit_loop.state_dict()
    weights = [p.detach().clone() for p in module.parameters()]
    state = [describe(one.state_dict()) for one in made.optimizers]
    metrics = describe(dict(made.callback_metrics)), describe(made.progress_bar_metrics)
    return made, weights, (recorder.seen, lines.lines, loops, metrics, state)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_a_run_is_the_same(tmp_path, case):
    usual, weights, seen = run(tmp_path, *CASES[case], prepare=lambda made: made)
    shorter, same_weights, same_seen = run(tmp_path, *CASES[case], prepare=shorten_epoch_loop)
    assert isinstance(shorter.fit_loop.epoch_loop, EpochLoop)
    assert usual.global_step
    assert all(torch.equal(a, b) for a, b in zip(weights, same_weights, strict=True))
    for expected, found in zip(seen, same_seen, strict=True):
        assert found == expected


SHORT = set(CASES) - {"double", "profiler"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["logs", "mixed", "Hand", "double", "profiler", "Manual"])
def test_the_shorter_path_is_taken_where_it_can_be(tmp_path, monkeypatch, case):
    lightnings = []
    advance = epoch_loop._TrainingEpochLoop.advance

    def count(self, fetcher):
        lightnings.append(self.trainer.global_step)
        advance(self, fetcher)

    monkeypatch.setattr(epoch_loop._TrainingEpochLoop, "advance", count)
    made, *_ = run(tmp_path, *CASES[case], prepare=shorten_epoch_loop)
    batches = made.fit_loop.epoch_loop.batch_progress.total.completed
    assert len(lightnings) == (0 if case in SHORT else batches)


def test_a_name_is_not_logged_in_two_ways(tmp_path):
    class Changes(Net):
        def training_step(self, batch, batch_idx):
            self.log("twice", 1.0 * batch_idx, prog_bar=batch_idx > 1)
            return super().training_step(batch, batch_idx)

    with pytest.raises(MisconfigurationException, match="twice"):
        run(tmp_path, Changes, {}, (), shorten_epoch_loop)


def test_an_optimizer_that_never_calls_its_closure_is_told(tmp_path):
    class Deaf(Net):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()[0][0]
            optimizer.step = lambda closure=None: None
            return optimizer

    with pytest.raises(MisconfigurationException, match="The closure hasn't been executed"):
        run(tmp_path, Deaf, {}, (), shorten_epoch_loop)


def test_this_version_of_lightning_has_been_compared():
    """For another version: read what its loop does for a batch, then add it."""
    assert lightning.__version__.startswith(COMPARED_VERSIONS)
