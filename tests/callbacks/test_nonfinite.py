"""A loss or a gradient that is not finite: stop, skip or rollback."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

import lit_optim
from lit_optim import LBFGS, SGD
from lit_optim.callbacks.checkpoint import Checkpoint, are_finite
from lit_optim.callbacks.nonfinite import MAX_STEPS_WITHOUT_LOSS, NonFinite, find_divergence
from lit_optim.checkpoints.files import CheckpointFiles
from lit_optim.errors import TrainingFailed
from lit_optim.schedules.library import linear
from lit_optim.wrappers import Ema, Wrapped
from tests.lightning.modules import Both, Data
from tests.optimizers.running import NAMES, class_of

LR = 0.1


class Net(LightningModule):
    monitor = ("val/loss", "min")

    def __init__(self, bad=(), what="loss", make=partial(SGD, lr=LR)):  # noqa: B008
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(3, 1).double()
        self.bad, self.what, self.make = set(bad), what, make
        self.calls = 0
        self.before = []

    def configure_optimizers(self):
        return lit_optim.configure_optimizers(self, self.make, linear())

    def training_step(self, batch, batch_idx):
        self.before.append(self.net.weight.detach().clone())
        self.calls += 1
        loss = self.net(batch[0]).square().mean()
        if self.calls - 1 not in self.bad:
            return loss
        if self.what == "none":
            return None
        if self.what == "gradient":  # the root of 0 has a finite value and no finite slope
            return loss + (self.net.weight * 0).sum().sqrt()
        return loss * float("nan")

    def validation_step(self, batch, batch_idx):
        value = self.net(batch[0]).square().mean()
        self.log("val/loss", value * float("nan") if self.what == "val" else value)


def fit(module, tmp_path, policy, most=10, **run):
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "max_epochs": 2, "num_sanity_val_steps": 0}
    callbacks = [NonFinite(policy, most), Checkpoint(tmp_path, monitor="val/loss")]
    trainer = Trainer(callbacks=callbacks, default_root_dir=tmp_path, **(settings | run))
    trainer.strategy.checkpoint_io = CheckpointFiles()
    trainer.fit(module, Both())
    return trainer


def test_stop_keeps_what_was_saved_before(tmp_path):
    module = Net(bad=[13])
    with pytest.raises(TrainingFailed, match="the loss is not finite at step 14"):
        fit(module, tmp_path, "stop")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 10
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_skip_makes_no_update(what, tmp_path, caplog):
    """Same as a plain loop without the bad batches, the schedule included."""
    module = Net(bad=[3, 4, 12], what=what)
    with caplog.at_level(logging.WARNING, "lit_optim"):
        fit(module, tmp_path, "skip")
    other = Net()
    t = 0
    for step, batch in enumerate([*Data().train_dataloader()] * 2):
        if step in module.bad:
            continue
        other.zero_grad()
        other.net(batch[0]).square().mean().backward()
        for p in other.parameters():
            p.data.sub_(LR * (1 - (t + 1) / 20) * p.grad)
        t += 1
    torch.testing.assert_close(module.net.weight, other.net.weight, rtol=0, atol=1e-14)
    told = [r.message for r in caplog.records]
    assert len([x for x in told if "the gradient is not finite at step" in x]) == 3


@pytest.mark.parametrize("bad", [0, 1, 3])
@pytest.mark.parametrize("line_search_fn", [None, "strong_wolfe"])
@pytest.mark.parametrize("around", [None, partial(Ema, decay=0.5, warmup=False)])
def test_skip_undoes_a_step_that_evaluates_the_loss_again(bad, line_search_fn, around, tmp_path):
    """Whichever evaluation is not finite, the batch has no effect."""
    make = partial(LBFGS, line_search_fn=line_search_fn, max_iter=4)
    module = Net(bad=[bad], what="gradient", make=make if around is None else Wrapped(make, around))
    module.configure_optimizers = lambda: lit_optim.configure_optimizers(module, module.make)
    trainer = fit(module, tmp_path, "skip", max_epochs=1)
    other = Net()
    [_, *batches] = Data().train_dataloader()
    theirs = torch.optim.LBFGS(other.parameters(), line_search_fn=line_search_fn, max_iter=4)
    for [x] in batches:

        def closure(x=x):
            theirs.zero_grad()
            loss = other.net(x).square().mean()
            loss.backward()
            return loss

        theirs.step(closure)
    if around is None:
        torch.testing.assert_close(module.net.weight, other.net.weight, rtol=0, atol=1e-14)
    else:  # the weights are its average
        assert trainer.optimizers[0].updates == len(batches)


def test_too_many_undone_steps_in_a_row_end_the_run(tmp_path):
    """The first evaluation of each is good, and the weights stay what they were."""

    class Worse(Net):
        def training_step(self, batch, batch_idx):
            self.calls += 1
            loss = super().training_step(batch, batch_idx)
            return loss if torch.equal(self.net.weight, start) else loss * float("nan")

    module = Worse(make=partial(LBFGS, max_iter=4))
    module.configure_optimizers = lambda: module.make(module.parameters())
    start = module.net.weight.detach().clone()
    with pytest.raises(TrainingFailed, match="the gradient is not finite 4 times in a row"):
        fit(module, tmp_path, "skip", most=3)
    assert torch.equal(module.net.weight, start)


#: one evaluates the loss again; one has no lr by default; one is torch's own, and overflows there
APART = {"lbfgs", "adafactor_hf", "sparse_adam"}


@pytest.mark.sampled(30)
@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in APART])
def test_a_huge_gradient_is_finite(name, policy, tmp_path, caplog):
    class Huge(LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Linear(3, 2, bias=False)
            self.calls = 0

        def configure_optimizers(self):
            return class_of(name)([{"params": [*self.parameters()]}], lr=1e-30)

        def training_step(self, batch, batch_idx):
            self.calls += 1
            loss = self.net(batch[0].float()).sum()
            return loss * 1e30 if self.calls == 3 else loss

    module = Huge()
    with caplog.at_level(logging.WARNING, "lit_optim"):
        fit(module, tmp_path, policy, max_epochs=1, limit_val_batches=0)
    assert module.calls == 10
    assert not [r for r in caplog.records if "not finite" in r.message]
    assert module.net.weight.isfinite().all()


@pytest.mark.parametrize(
    ("value", "finite"), [(1e38, True), (float("inf"), False), (float("nan"), False)]
)
def test_what_is_finite(value, finite):
    kinds = [
        torch.tensor([1.0, value]),
        torch.tensor([[value]], dtype=torch.bfloat16),
        torch.tensor([complex(value, value), 0j]),
        torch.tensor([complex(0, value)]).conj(),
        torch.sparse_coo_tensor([[1]], [value], (3,)),
    ]
    others = [torch.ones(2), torch.tensor(3), torch.empty(0), torch.tensor(True)]
    for x in kinds:
        assert are_finite([*others, x]) is finite


def test_an_average_is_not_moved_by_what_is_no_update(tmp_path):
    make = Wrapped(partial(SGD, lr=LR), partial(Ema, decay=0.5, warmup=False))
    module = Net(bad=[3, 4], make=make)
    trainer = fit(module, tmp_path, "skip")
    assert trainer.optimizers[0].updates == 18


@pytest.mark.parametrize(("policy", "what"), [("skip", "gradient"), ("rollback", "loss")])
def test_too_many_in_a_row_end_the_run(policy, what, tmp_path):
    module = Net(bad=range(11, 99), what=what)
    with pytest.raises(TrainingFailed, match=f"the {what} is not finite 4 times in a row"):
        fit(module, tmp_path, policy, most=3)


def test_rollback_goes_back_to_the_newest(tmp_path):
    module = Net(bad=[13])
    fit(module, tmp_path, "rollback", max_epochs=3)
    saved_at = module.before[10]  # after the first epoch
    assert torch.equal(module.before[14], saved_at)
    assert not torch.equal(module.before[13], saved_at)
    assert torch.isfinite(module.net.weight).all()


def test_rollback_without_a_checkpoint(tmp_path):
    with pytest.raises(TrainingFailed, match="there is no checkpoint to go back to"):
        fit(Net(bad=[3]), tmp_path, "rollback")


def test_what_is_validated_as_nan_is_not_the_best(tmp_path):
    fit(Net(what="val"), tmp_path, "stop")
    assert not (tmp_path / "best.ckpt").exists()


def test_no_loss_again_and_again(tmp_path):
    module = Net(bad=range(10**6), what="none")
    with pytest.raises(TrainingFailed, match=f"no loss {MAX_STEPS_WITHOUT_LOSS} times in a row"):
        fit(module, tmp_path, "stop", max_epochs=99)


def test_no_loss_at_first_is_no_matter_for_skip(tmp_path):
    module = Net(bad=[0, 1], what="none")
    fit(module, tmp_path, "skip")
    assert torch.isfinite(module.net.weight).all()


def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    """A gradient without a finite slope under a finite loss, in the last step before a save."""
    module = Net(bad=[19], what="gradient")
    fit(module, tmp_path, "stop")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 10
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ("loss", "the loss is not finite"),
        ("weights", "the weights are not finite"),
        ("none", None),
    ],
)
def test_an_error_of_another_kind_may_come_of_divergence(tmp_path, bad, expected):
    """A matrix that is not finite has no factors, before anybody looks at the loss."""

    class Fails(Net):
        def on_before_optimizer_step(self, optimizer):
            if self.calls == 3:
                if bad == "weights":
                    self.net.weight.data.fill_(float("inf"))
                torch.linalg.cholesky(-torch.eye(2))

    module = Fails(bad=[2] if bad == "loss" else [])
    with pytest.raises(torch.linalg.LinAlgError):
        fit(module, tmp_path, "stop")
    assert find_divergence(module.trainer) == expected
