"""Manual optimization, by one optimizer or several: each schedule covers its updates."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lit_optim import SGD, AdamW
from lit_optim.callbacks.averaged_weights import AveragedWeights
from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.callbacks.health import Health
from lit_optim.callbacks.learning_rates import LearningRates
from lit_optim.callbacks.metric_history import MetricHistory
from lit_optim.callbacks.nonfinite import MAX_STEPS_WITHOUT_LOSS, NonFinite
from lit_optim.callbacks.resumable import Resumable
from lit_optim.errors import TrainingFailed
from lit_optim.schedules.library import constant_warmup, cosine, linear
from lit_optim.wrappers import Ema
from tests.events import scalars
from tests.lightning.manual import LR, Both, Net, ema, fit, planned, trainer
from tests.lightning.modules import Data
from tests.optimizers_of_others import OTHERS, Consumes


@pytest.mark.parametrize("name", OTHERS)
def test_the_schedule_follows_by_itself(name, tmp_path):
    module = Net(partial(OTHERS[name], lr=LR))
    fit(tmp_path, module, max_steps=25)
    assert module.used == [planned(module.schedule, 25)]


def test_stepping_it_as_well_changes_nothing(tmp_path):
    class Steps(Net):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            self.lr_schedulers().step()
            self.lr_schedulers().step()

    module = Steps(partial(SGD, lr=LR))
    fit(tmp_path, module, max_steps=25)
    assert module.used == [planned(module.schedule, 25)]


@pytest.mark.parametrize("run", [{"max_steps": 40}, {"max_epochs": 2}], ids=["steps", "epochs"])
@pytest.mark.parametrize("others", [1, 2])
def test_each_schedule_covers_the_updates_of_its_optimizer(run, others, tmp_path, caplog):
    """max_steps counts the updates of all of them, max_epochs the batches."""
    makes = [partial(SGD, lr=LR), partial(AdamW, lr=LR), partial(Consumes, lr=LR)][: others + 1]
    module = Net(*makes)
    with caplog.at_level(logging.WARNING, "lit_optim"):
        fit(tmp_path, module, **run)
    count = 20 if "max_epochs" in run else -(-40 // len(makes))
    assert module.used == [planned(module.schedule, count)] * len(makes)
    assert module.optimizers()[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    assert not caplog.records


def test_a_schedule_with_another_length_than_the_run_is_warned_of(tmp_path, caplog):
    """A critic that makes five updates to one of the generator."""
    module = Net(partial(SGD, lr=LR), partial(AdamW, lr=LR), steps=[1, 5])
    with caplog.at_level(logging.WARNING, "lit_optim"):
        fit(tmp_path, module, max_steps=60)
    told = [record.message for record in caplog.records]
    assert told == [
        f"the schedule of {name} was made for 30 updates, but the run made {made}: "
        f"total={made} lets it end with the run"
        for name, made in (("SGD", 10), ("AdamW", 50))
    ]
    caplog.clear()
    module = Net(partial(SGD, lr=LR), schedule=cosine(total=80))  # somebody knows what he does
    with caplog.at_level(logging.WARNING, "lit_optim"):
        fit(tmp_path, module, max_steps=20)
        fit(tmp_path, Net(partial(SGD, lr=LR), schedule=constant_warmup(warmup=2)), max_steps=20)
    assert not caplog.records


def test_returning_nothing_is_no_fault(tmp_path):
    module = Net(partial(SGD, lr=LR))
    run = fit(tmp_path, module, [NonFinite()], max_steps=MAX_STEPS_WITHOUT_LOSS + 20)
    assert run.global_step == MAX_STEPS_WITHOUT_LOSS + 20


@pytest.mark.parametrize("returns", [False, True])
@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_what_is_not_finite(policy, returns, tmp_path):
    module = Net(partial(SGD, lr=LR), schedule=linear(), bad=[13], returns=returns)
    callbacks = [NonFinite(policy), Checkpoint(str(tmp_path), monitor="val/loss")]
    if policy == "stop":
        with pytest.raises(TrainingFailed, match="is not finite at step 14"):
            fit(tmp_path, module, callbacks, max_steps=30)
        return
    fit(tmp_path, module, callbacks, max_steps=30)
    assert all(torch.isfinite(p).all() for p in module.parameters())
    [config] = module.trainer.lr_scheduler_configs
    # skipped: 29 updates; rolled back: from update 14 to the checkpoint after 10
    assert config.scheduler.last_epoch == (29 if policy == "skip" else 26)


def test_tags_and_values_of_several(tmp_path):
    """lr/<optimizer>/<group>, at the updates of each, and its plan."""
    logger = TensorBoardLogger(tmp_path, name="", version="")
    module = Net(partial(SGD, lr=LR), partial(AdamW, lr=LR), partial(AdamW, lr=LR), steps=[1, 3, 1])
    callbacks = [LearningRates(), Health(every=4)]
    fit(tmp_path, module, callbacks, max_epochs=2, logger=logger, log_every_n_steps=5)
    curves = scalars(tmp_path)
    for k, (name, made) in enumerate([("SGD", 20), ("AdamW0", 60), ("AdamW1", 20)]):
        lrs = curves[f"lr/{name}/all"]
        expected = {0, made - 1} | {t for t in range(made) if (t + 1) % 5 == 0}
        assert set(lrs) == expected
        for t, lr in lrs.items():
            assert lr == pytest.approx(module.used[k][t], rel=1e-6)
        plan = curves[f"plan/{name}/all"]
        assert {t: plan[t] for t in range(20)} == pytest.approx(
            dict(enumerate(planned(module.schedule, 20))), rel=1e-6, abs=1e-9
        )
        assert set(curves[f"update_norm/{name}/all"]) == set(range(0, made, 4))
        ratios = curves[f"update_ratio/{name}/all"]
        for t, moved in curves[f"update_norm/{name}/all"].items():
            size = curves[f"param_norm/{name}/all"][t]
            assert ratios[t] == pytest.approx(moved / size, rel=1e-5)
            if name == "SGD":
                grad = curves[f"grad_norm/{name}/all"][t]
                assert moved == pytest.approx(module.used[0][t] * grad, rel=1e-5, abs=1e-12)
    assert not {"lr/all", "plan/all", "grad_norm/all"} & set(curves)


@pytest.mark.parametrize("automatic", [False, True])
@pytest.mark.parametrize("name", ["consumes", "clears_in_a_hook", "hookless"])
def test_health_of_what_leaves_no_gradient(name, automatic, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    module = Net(partial(OTHERS[name], lr=LR))
    if automatic:
        module.automatic_optimization = True
        module.training_step = lambda batch, batch_idx: module.nets[0](batch[0]).square().mean()
    callbacks = [Health(every=1), LearningRates()]
    fit(tmp_path, module, callbacks, max_steps=10, logger=logger, log_every_n_steps=1)
    curves = scalars(tmp_path)
    for t, moved in curves["update_norm/all"].items():
        grad = curves["grad_norm/all"][t]
        assert moved == pytest.approx(curves["lr/all"][t] * grad, rel=1e-5, abs=1e-12)
        assert grad > 0
    assert len(curves["update_norm/all"]) == 10


def test_two_averages(tmp_path):
    """Both are validated and saved, and trained on from what was trained."""
    module = Net(ema(SGD), ema(AdamW))
    callbacks = [Checkpoint(str(tmp_path), monitor="val/loss")]
    run = fit(tmp_path, module, callbacks, max_epochs=2)
    [averaged] = [c for c in run.callbacks if isinstance(c, AveragedWeights)]
    assert averaged.optimizers == run.optimizers
    assert [optimizer.updates for optimizer in run.optimizers] == [20, 20]
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    for k, make in enumerate((SGD, AdamW)):
        alone = nn.Linear(3, 1).double()
        torch.manual_seed(0)
        fresh = nn.ModuleList(nn.Linear(3, 1).double() for _ in range(2))
        alone.load_state_dict(fresh[k].state_dict())
        optimizer = Ema(make(list(alone.parameters()), lr=LR), decay=0.5, warmup=False)
        for lr, batch in zip(
            planned(module.schedule, 20), [*Data().train_dataloader()] * 2, strict=True
        ):
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            alone(batch[0]).square().mean().backward()
            optimizer.step()
        torch.testing.assert_close(
            saved["training_weights"][f"nets.{k}.weight"], alone.weight.detach()
        )
        optimizer.eval()
        torch.testing.assert_close(saved["state_dict"][f"nets.{k}.weight"], alone.weight.detach())


def test_the_mode_of_an_average_is_one(tmp_path):
    """Lightning's and Fabric's wrappers take its class and attributes: the mode is set within."""

    class Turns(Net):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.eval()
            assert not optimizer.train_mode
            with pytest.raises(RuntimeError, match="eval mode"):
                optimizer.optimizer.step()
            optimizer.train()
            super().training_step(batch, batch_idx)

    module = Turns(ema(SGD))
    assert fit(tmp_path, module, max_steps=5).optimizers[0].updates == 5
    fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    net = nn.Linear(3, 1)
    inner = Ema(SGD(list(net.parameters()), lr=LR))
    _, optimizer = fabric.setup(net, inner)
    optimizer.eval()
    assert not inner.train_mode
    assert not inner.state_dict()["state"][0]["Ema.train_mode"]
    optimizer.train()
    assert inner.train_mode


@pytest.mark.parametrize("makes", [1, 2])
def test_resumed_in_manual_optimization(makes, tmp_path):
    def module():
        return Net(*[partial(SGD, lr=LR, momentum=0.9)] * makes)

    whole = module()
    fit(tmp_path / "whole", whole, max_epochs=3)
    part, callbacks = tmp_path / "part", lambda: [Checkpoint(str(tmp_path / "part")), Resumable()]
    first = module()
    run = trainer(part, callbacks(), max_epochs=3)
    run.fit_loop.max_epochs = 3

    class Stop(Exception):
        pass

    def fails(batch, batch_idx):
        if first.batches == 20:
            raise Stop
        return Net.training_step(first, batch, batch_idx)

    first.training_step = fails
    with pytest.raises(Stop):
        run.fit(first, Both())
    second = module()
    fit(part, second, callbacks(), ckpt=part / "last.ckpt", max_epochs=3)
    assert [a + b for a, b in zip(first.used, second.used, strict=True)] == whole.used
    for p, q in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_last_update_is_validated_with_several_optimizers(tmp_path):
    """max_steps=25 is passed from 24 to 26."""
    module, history = Net(*[partial(SGD, lr=LR)] * 2), MetricHistory()
    fit(tmp_path, module, [history], max_steps=25)
    weights = [p.detach().clone() for p in module.parameters()]
    values = [
        sum(net(batch[0]).square().mean() for net in module.nets)
        for batch in Data().train_dataloader()
    ]
    assert history.final["val/loss"] == pytest.approx((sum(values) / len(values)).item())
    assert all(torch.equal(p, q) for p, q in zip(weights, module.parameters(), strict=True))
