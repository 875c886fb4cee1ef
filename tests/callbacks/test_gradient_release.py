"""Gradients are released under Lightning: the same weights, logs and checkpoints, to the bit."""

from __future__ import annotations

import os
from functools import partial
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

import lit_optim
from lit_optim import AdamW, Ema, Muon, UsageError
from lit_optim.callbacks.gradient_release import GradientRelease
from lit_optim.callbacks.health import Health
from lit_optim.callbacks.learning_rates import LearningRates
from lit_optim.callbacks.nonfinite import NonFinite
from lit_optim.schedules import cosine_warmup
from tests.events import scalars
from tests.lightning.modules import Data, Plain, attach, trainer
from tests.sharding import products

MAKES = {
    "AdamW": partial(AdamW, lr=0.05),
    "Muon": partial(Muon, lr=0.02),
    "Ema": lambda params: Ema(AdamW(params, lr=0.05), decay=0.9),
}


def fit(root, make, released, module=None, ckpt=None, **settings):
    torch.manual_seed(0)
    module = attach(
        module or Plain(none_every=0 if "gradient_clip_val" in settings else 5),
        make,
        cosine_warmup("20%"),
        schedules={"weight_decay": "lr"},
    )
    callbacks = [*settings.pop("callbacks", ()), *[GradientRelease()] * released]
    t = trainer(root, callbacks=callbacks, **{"max_steps": 12, **settings})
    t.fit(module, Data(batches=10), ckpt_path=ckpt)
    return t, module


def assert_equal(x, y):
    if isinstance(x, dict):
        assert x.keys() == y.keys()
        for key in x:
            assert_equal(x[key], y[key])
    elif isinstance(x, list):
        for one, other in zip(x, y, strict=True):
            assert_equal(one, other)
    else:
        assert torch.equal(x, y) if torch.is_tensor(x) else x == y


def watched(root, **settings):
    return {
        "logger": TensorBoardLogger(root, name="", version=""),
        "callbacks": [Health(every=2), LearningRates(), NonFinite("stop")],
        "log_every_n_steps": 1,
        **settings,
    }


@pytest.mark.sampled(3)
@pytest.mark.parametrize("clip", [None, 1e-3])
@pytest.mark.parametrize("name", MAKES)
def test_weights_states_and_logs_are_the_same(name, clip, tmp_path):
    more = {"gradient_clip_val": clip, "gradient_clip_algorithm": "value"} if clip else {}
    plain = fit(tmp_path / "plain", MAKES[name], False, **watched(tmp_path / "plain", **more))
    found = fit(tmp_path / "found", MAKES[name], True, **watched(tmp_path / "found", **more))
    for p, q in zip(found[1].parameters(), plain[1].parameters(), strict=True):
        assert torch.equal(p, q)
        assert p.grad is None
    assert_equal(found[0].optimizers[0].state_dict(), plain[0].optimizers[0].state_dict())
    assert found[0].global_step == plain[0].global_step
    logs, expected = scalars(tmp_path / "found"), scalars(tmp_path / "plain")
    assert logs.keys() == expected.keys()
    assert any(tag.startswith("grad_norm/") for tag in logs)
    for tag, values in expected.items():
        assert logs[tag] == pytest.approx(values, rel=1e-6), tag


def test_a_resumed_run_may_release(tmp_path):
    saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=6, save_top_k=-1)
    fit(tmp_path, MAKES["AdamW"], False, callbacks=[saves], enable_checkpointing=True)
    resumed = [
        fit(tmp_path, MAKES["AdamW"], released, ckpt=tmp_path / "step=6.ckpt")
        for released in (False, True)
    ]
    assert [t.global_step for t, _ in resumed] == [12, 12]
    plain, found = [module for _, module in resumed]
    for p, q in zip(found.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_next_fit_of_the_module_is_without(tmp_path):
    t, module = fit(tmp_path, MAKES["AdamW"], True)
    [optimizer] = t.optimizers
    module.net(torch.ones(2, 3).double()).sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    assert "_release" not in vars(optimizer)


class Clips(Plain):
    def configure_gradient_clipping(self, optimizer, *args, **kwargs):
        """Clip in a way of its own."""


class Manual(Plain):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("gradient_clip_val=0.5 clips by the norm", {"gradient_clip_val": 0.5}),
        ("accumulated gradients have to be kept", {"accumulate_grad_batches": 2}),
        (
            "accumulated gradients have to be kept",
            {"callbacks": [GradientAccumulationScheduler({3: 2})]},
        ),
        ("NonFinite looks at all gradients", {"callbacks": [NonFinite("skip")]}),
        ("Manual has manual optimization", {"module": Manual}),
        ("configure_gradient_clipping of Clips", {"module": Clips}),
        ("DDPStrategy averages gradients", {"strategy": "ddp"}),
        ("Sam evaluates the loss again", {"make": lambda p: lit_optim.Sam(AdamW(p))}),
        ("Prodigy computes each update from all", {"make": lit_optim.Prodigy}),
    ],
)
def test_runs_that_need_all_gradients_are_refused(message, settings, tmp_path):
    settings = dict(settings)
    make, module = settings.pop("make", MAKES["AdamW"]), settings.pop("module", Plain)()
    before = [p.detach().clone() for p in module.parameters()]
    # DDPStrategy sets the variables of a launcher
    with patch.dict(os.environ), pytest.raises(UsageError, match=message) as caught:
        fit(tmp_path, make, True, module, **settings)
    if dist.is_initialized():
        dist.destroy_process_group()
    assert "\n" not in str(caught.value)
    assert all(map(torch.equal, module.parameters(), before))


def test_the_command_line(tmp_path):
    for released in ("false", "true"):
        line = ("optimizer=muon", "trainer.max_steps=10", f"trainer.gradient_release={released}")
        result = products.train(str(tmp_path / released), *line, alone=True)
        assert result["steps"] == 10
    plain, found = (products.saved(tmp_path / released) for released in ("false", "true"))
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(found[key], plain[key])
