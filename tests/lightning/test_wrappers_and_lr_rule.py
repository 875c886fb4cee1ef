"""Wrappers and the lr by the batch, under a real Trainer."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

import lit_optim
from lit_optim import SGD, AdamW
from lit_optim.errors import UsageError
from lit_optim.lightning import lr_rule
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import cosine_warmup
from lit_optim.wrappers import Lookahead, Sam, Wrapped
from tests.lightning.modules import Data, Plain, trainer

HYPER = {"lr": 0.05, "weight_decay": 0.1}


class Given(Plain):
    def __init__(self, make, **parts):
        super().__init__()
        self.make, self.parts = make, parts

    def configure_optimizers(self):
        return lit_optim.configure_optimizers(self, self.make, **self.parts)


def fitted(make, tmp_path, parts=None, data=None, **settings):
    torch.manual_seed(0)
    module = Given(make, **(parts or {}))
    trainer(tmp_path, **({"max_epochs": 2} | settings)).fit(module, data or Data())
    return module


@pytest.mark.parametrize("clip", [None, 0.01])
def test_sam_clips_what_it_steps_by(clip, tmp_path):
    module = fitted(
        Wrapped(partial(AdamW, **HYPER), partial(Sam, rho=0.2)),
        tmp_path,
        {"scheduler": cosine_warmup(warmup=3)},
        gradient_clip_val=clip,
    )
    torch.manual_seed(0)
    other = Given(None)
    curve = cosine_warmup(warmup=3).curve(Horizon(20))
    decayed = [p for p in other.parameters() if p.ndim > 1]
    vectors = [p for p in other.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": vectors, "weight_decay": 0.0}], **HYPER, foreach=False
    )
    params, t = list(other.parameters()), 0
    for _ in range(2):
        for batch in Data().train_dataloader():
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * curve(t)
            grads = torch.autograd.grad(other.net(batch[0]).square().mean(), params)
            norm = torch.stack([g.norm() for g in grads]).norm()
            kept = [p.detach().clone() for p in params]
            for p, g in zip(params, grads, strict=True):
                p.data.add_(0.2 * g / norm)
            optimizer.zero_grad()
            other.net(batch[0]).square().mean().backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(params, clip)
            for p, old in zip(params, kept, strict=True):
                p.data.copy_(old)
            optimizer.step()
            t += 1
    for p, q in zip(module.parameters(), params, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6 if clip else 1e-10)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"accumulate_grad_batches": 2}, "Sam evaluates the loss again within a step, and would"),
        ({"precision": "16-mixed"}, "the loss scaling of precision=16-mixed"),
    ],
    ids=["accumulated", "scaled"],
)
def test_sam_is_refused_where_it_cannot_work(settings, line, tmp_path):
    if "precision" in settings:  # which Lightning does not give on a CPU
        plugin = MixedPrecision("16-mixed", "cpu")
        plugin.scaler = torch.amp.GradScaler("cpu")
        settings = {"plugins": [plugin]}
    with pytest.raises(UsageError) as refused:
        fitted(Wrapped(partial(AdamW, **HYPER), Sam), tmp_path, **settings)
    assert line in str(refused.value)


def test_accumulated_batches_are_one_update_of_the_slow_weights(tmp_path):
    make = Wrapped(partial(SGD, lr=0.1), partial(Lookahead, k=5))
    module = fitted(make, tmp_path, accumulate_grad_batches=2)
    assert module.trainer.optimizers[0].updates == 10


@pytest.mark.parametrize(
    ("rule", "accumulated", "factor"),
    [
        (lr_rule.linear(base=16), 1, 0.25),
        (lr_rule.linear(base=2), 3, 6.0),
        (lr_rule.sqrt(base=16), 1, 0.5),
        (lr_rule.none(), 1, 1.0),
    ],
    ids=["linear", "accumulated", "sqrt", "none"],
)
def test_lr_by_the_batch(rule, accumulated, factor, tmp_path, caplog):
    """Batches of four; every group in the same way, and the schedule on top."""
    groups = {"param_groups": lambda m: [{"params": [*m.parameters()][:2], "lr": 0.3},
                                         {"params": [*m.parameters()][2:]}]}  # fmt: skip
    with caplog.at_level(logging.INFO, "lit_optim"):
        module = fitted(
            partial(SGD, lr=0.1),
            tmp_path,
            groups | {"lr_rule": rule, "scheduler": cosine_warmup(warmup=1)},
            accumulate_grad_batches=accumulated,
        )
    assert module.lrs[0] == pytest.approx([0.3 * factor, 0.1 * factor])
    told = [r.message for r in caplog.records if "lr_rule" in r.message]
    assert len(told) == (rule is not None)
    shares = {"linear": f"{4 * accumulated} / ", "sqrt": "sqrt(4 / 16)"}
    assert all(f"lr = 0.3 x {shares[rule.name]}" in line for line in told)


@pytest.mark.parametrize("base", [0, -1, 1.5, None])
def test_a_base_that_is_none(base):
    with pytest.raises(UsageError, match="base must be a whole number > 0"):
        lr_rule.linear(base=base)
