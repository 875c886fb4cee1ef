"""What callbacks do at every batch, and which empty hooks are skipped."""

from __future__ import annotations

import re

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.profilers import SimpleProfiler

from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.callbacks.progress import RunProgress
from lit_optim.training.overrides import BATCH_HOOKS, skip_noop_hooks
from lit_optim.training.profiler import NoProfiler
from tests.lightning.modules import Data, Plain, attach, trainer


class Called(Callback):
    """Counts the hooks that it has."""

    def __init__(self):
        self.count = dict.fromkeys(BATCH_HOOKS, 0)


def counting(hook):
    def called(self, *args):
        self.count[hook] += 1

    return called


@pytest.mark.parametrize("hook", BATCH_HOOKS)
def test_a_hook_that_does_something_is_called(tmp_path, hook):
    """Overridden in a class, inherited from it, or put onto one object."""
    child = type("Child", (type("Parent", (Called,), {hook: counting(hook)}),), {})()
    lines: list[str] = []
    put = LambdaCallback(**{hook: lambda *args: lines.append(hook)})
    run = skip_noop_hooks(trainer(tmp_path, max_steps=3, callbacks=[child, put, Callback()]))
    assert [hook for hook in BATCH_HOOKS if callable(getattr(child, hook))] == [hook]
    assert [hook for hook in BATCH_HOOKS if callable(getattr(put, hook))] == [hook]
    module = attach(Plain())
    module.validation_step = lambda batch, batch_idx: None
    run.fit(module, Data(batches=3).train_dataloader(), Data(batches=3).train_dataloader())
    sanity = 2 if "validation" in hook else 0
    assert child.count == dict.fromkeys(BATCH_HOOKS, 0) | {hook: 3 + sanity}
    assert len(lines) == 3 + sanity


def test_skipping_noop_hooks_changes_no_result(tmp_path):
    weights = []
    for make in (lambda run: run, skip_noop_hooks):
        torch.manual_seed(0)
        module = attach(Plain())
        kept = Checkpoint(str(tmp_path))
        run = make(trainer(tmp_path, max_steps=5, callbacks=[kept], enable_checkpointing=True))
        run.fit(module, Data())
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(*weights)
    assert torch.load(tmp_path / "last.ckpt")["global_step"] == 5


def test_the_profiler_that_was_chosen_is_kept(tmp_path):
    run = skip_noop_hooks(trainer(tmp_path, max_steps=3, profiler="simple"))
    run.fit(attach(Plain()), Data())
    assert isinstance(run.profiler, SimpleProfiler)
    assert len(run.profiler.recorded_durations["run_training_batch"]) == 3


def test_a_run_without_a_profiler_enters_no_generators(tmp_path):
    module = attach(Plain())
    run = trainer(tmp_path, max_steps=3, profiler=NoProfiler())
    run.fit(module, Data())
    assert run.global_step == 3
    with run.profiler.profile("nothing") as action:
        assert action == ""


class Counts(Plain):
    """Its metric is the number of the batch."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.log("batch", float(batch_idx), prog_bar=True)


@pytest.mark.parametrize(("steps", "expected"), [(9, ["8"]), (6, ["5"])])
def test_the_bar_ends_with_the_last_metrics(tmp_path, capsys, steps, expected):
    """Also with those that a model logs when a batch has ended."""
    run = trainer(
        tmp_path,
        max_steps=steps,
        log_every_n_steps=3,
        callbacks=[RunProgress()],
        enable_progress_bar=True,
    )
    run.fit(attach(Counts()), Data())
    shown = capsys.readouterr().err
    assert f"{steps}/{steps}" in shown
    assert re.findall(r"batch (\d+)\.000", shown) == expected


def test_the_bar_reads_metrics_after_logged_steps(tmp_path):
    read = []

    class Reads(RunProgress):
        def _show_metrics(self, trainer):
            read.append((trainer.global_step, trainer.progress_bar_metrics.get("batch")))

    run = trainer(
        tmp_path,
        max_steps=8,
        log_every_n_steps=3,
        callbacks=[Reads()],
        enable_progress_bar=True,
    )
    run.fit(attach(Counts()), Data())
    assert read == [(4, 2.0), (7, 5.0), (8, 7.0)]  # the last batch of 0, 1, ... that had ended
