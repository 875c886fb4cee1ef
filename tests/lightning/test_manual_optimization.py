"""Manual optimization, several optimizers, repeated fits: each schedule covers its updates."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

import lit_optim
from lit_optim import SGD, AdamW
from lit_optim.callbacks.averaged_weights import AveragedWeights
from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.callbacks.health import Health
from lit_optim.callbacks.learning_rates import LearningRates
from lit_optim.callbacks.metric_history import MetricHistory
from lit_optim.callbacks.nonfinite import MAX_STEPS_WITHOUT_LOSS, NonFinite
from lit_optim.callbacks.resumable import Resumable
from lit_optim.checkpoints.files import CheckpointFiles
from lit_optim.errors import TrainingFailed, UsageError
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import constant_warmup, cosine, cosine_warmup, linear
from lit_optim.training.lengths import run_length
from lit_optim.wrappers import Ema, Wrapped
from tests.events import scalars
from tests.lightning.modules import Data
from tests.optimizers_of_others import OTHERS, Consumes

LR = 0.1
BATCHES = 10


class Net(LightningModule):
    """Manual optimization of as many optimizers as `makes`; a step may be none, or several."""

    def __init__(self, *makes, schedule=None, steps=None, bad=(), returns=False, **parts):
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.nets = nn.ModuleList(nn.Linear(3, 1).double() for _ in makes)
        self.makes, self.schedule, self.parts = makes, schedule or cosine_warmup(warmup=4), parts
        self.steps = steps or [1] * len(makes)
        self.bad, self.returns = set(bad), returns
        self.batches = 0
        self.used: list[list[float]] = [[] for _ in makes]

    def configure_optimizers(self):
        def groups(net):
            return lambda module: [{"params": list(net.parameters()), "name": "all"}]

        return [
            lit_optim.configure_optimizers(
                self, make, self.schedule, param_groups=groups(net), **self.parts
            )
            for make, net in zip(self.makes, self.nets, strict=True)
        ]

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        loss = None
        for k, (optimizer, net) in enumerate(zip(optimizers, self.nets, strict=True)):
            for _ in range(self.steps[k]):
                optimizer.zero_grad()
                loss = net(batch[0]).square().mean()
                if self.batches in self.bad:
                    loss = loss * float("nan")
                self.manual_backward(loss)
                self.used[k].append(optimizer.param_groups[0]["lr"])
                optimizer.step()
        self.batches += 1
        return loss.detach() if self.returns else None

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", sum(net(batch[0]).square().mean() for net in self.nets))


class Both(Data):
    def val_dataloader(self):
        return self.train_dataloader()


def trainer(path, callbacks=(), **run):
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "num_sanity_val_steps": 0}
    settings |= {"enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks)}
    made = Trainer(callbacks=list(callbacks), default_root_dir=path, **(settings | run))
    made.strategy.checkpoint_io = CheckpointFiles()
    return made


def fit(path, module, callbacks=(), ckpt=None, **run):
    made = trainer(path, callbacks, **run)
    made.fit(module, Both(), ckpt_path=ckpt, weights_only=True)
    return made


def planned(schedule, steps, count=None):
    curve = schedule.curve(Horizon(steps))
    return [curve(t, LR) for t in range(steps if count is None else count)]


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


def ema(make):
    return Wrapped(partial(make, lr=LR), partial(Ema, decay=0.5, warmup=False))


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


# --- fits again -----------------------------------------------------------------------------------


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize("makes", [1, 2])
@pytest.mark.parametrize("by", ["steps", "epochs", "both"])
def test_a_trainer_that_fits_again(by, makes, automatic, tmp_path):
    """The second schedule is over the updates that are left, from its beginning to its end."""
    if automatic and makes == 2:
        pytest.skip("Lightning takes one optimizer there")
    module = Net(*[partial(SGD, lr=LR)] * makes)
    if automatic:
        module.automatic_optimization = True
        module.training_step = lambda batch, batch_idx: module.nets[0](batch[0]).square().mean()
        module.on_before_optimizer_step = lambda optimizer: module.used[0].append(
            optimizer.param_groups[0]["lr"]
        )
    first = {"max_steps": 20 * makes} if by == "steps" else {"max_epochs": 2}
    logger = TensorBoardLogger(tmp_path, name="", version="")
    run = trainer(tmp_path, [LearningRates()], **first, logger=logger, log_every_n_steps=1)
    run.fit(module, Data())
    assert module.used == [planned(module.schedule, 20)] * makes
    if by == "steps":
        run.fit_loop.epoch_loop.max_steps = 50 * makes
    else:
        run.fit_loop.max_epochs = 5
    if by == "both":
        run.fit_loop.epoch_loop.max_steps = 1000
    run.fit(module, Data())
    assert module.used == [planned(module.schedule, 20) + planned(module.schedule, 30)] * makes
    tag = "lr/all" if makes == 1 else "lr/SGD0/all"
    assert scalars(tmp_path)[tag] == pytest.approx(
        dict(enumerate(module.used[0])), rel=1e-6, abs=1e-9
    )


def test_a_module_is_fit_again_by_another_trainer(tmp_path):
    module = Net(ema(SGD))
    for _ in range(2):
        fit(tmp_path, module, max_steps=20)
    assert module.used == [planned(module.schedule, 20) * 2]


def test_an_optimizer_that_is_kept_between_fits(tmp_path):
    """The module returns the same one again, with another schedule over it."""

    class Keeps(Net):
        kept = None

        def configure_optimizers(self):
            self.kept = self.kept or SGD(list(self.parameters()), lr=LR)
            curve = linear(min_lr_ratio=0.1).curve(Horizon(run_length(self.trainer)))
            scheduler = ScheduledLR(self.kept, curve)
            scheduler.step_after_updates()
            return [self.kept], [scheduler]

    module = Keeps(SGD)
    run = trainer(tmp_path, max_steps=20)
    run.fit(module, Data())
    run.fit_loop.epoch_loop.max_steps = 50
    run.fit(module, Data())
    schedule = linear(min_lr_ratio=0.1)
    assert module.used == [planned(schedule, 20) + planned(schedule, 30)]


@pytest.mark.parametrize("horizon", ["error", "keep", "extend"])
def test_a_longer_run_in_python(horizon, tmp_path):
    first = Net(partial(SGD, lr=LR), schedule=linear())
    fit(tmp_path, first, [Checkpoint(str(tmp_path)), Resumable()], max_epochs=2)
    second = Net(partial(SGD, lr=LR), schedule=linear(), horizon=horizon)
    again = partial(
        fit, tmp_path, second, [Checkpoint(str(tmp_path)), Resumable()],
        ckpt=tmp_path / "last.ckpt", max_epochs=4,
    )  # fmt: skip
    if horizon == "error":
        with pytest.raises(UsageError, match='horizon="keep"'):
            again()
        return
    again()
    expected = planned(linear(), 40)[20:] if horizon == "extend" else [0.0] * 20
    assert second.used[0][1:] == pytest.approx(expected[1:], abs=1e-15)


def test_a_longer_run_of_a_schedule_without_an_end(tmp_path):
    schedule = constant_warmup(warmup=4)
    first = Net(partial(SGD, lr=LR), schedule=schedule)
    fit(tmp_path, first, [Checkpoint(str(tmp_path)), Resumable()], max_steps=20)
    second = Net(partial(SGD, lr=LR), schedule=schedule)
    fit(
        tmp_path, second, [Checkpoint(str(tmp_path)), Resumable()],
        ckpt=tmp_path / "last.ckpt", max_steps=40,
    )  # fmt: skip
    assert second.used == [[LR] * 20]


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


@pytest.mark.parametrize("accumulated", [2, 3, 4])
def test_lightnings_accumulation_callback_counts(accumulated, tmp_path):
    """{0: k} is another way to say accumulate_grad_batches=k."""
    module = Net(partial(SGD, lr=LR), schedule=cosine())
    module.automatic_optimization = True
    module.training_step = lambda batch, batch_idx: module.nets[0](batch[0]).square().mean()
    callback = GradientAccumulationScheduler({0: accumulated})
    run = fit(tmp_path, module, [callback], max_epochs=2)
    [config] = run.lr_scheduler_configs
    assert config.scheduler.last_epoch == config.scheduler.curve.total == run.global_step
    assert run.global_step == 2 * -(-BATCHES // accumulated)


def test_accelerates_optimizer_is_one(tmp_path):
    """It has no hooks, and its schedulers are stepped once for each process."""
    accelerate = pytest.importorskip("accelerate")
    net = nn.Linear(3, 1)
    inner = Ema(SGD(list(net.parameters()), lr=LR))
    accelerator = accelerate.Accelerator(cpu=True)
    net, optimizer = accelerator.prepare(net, inner)
    scheduler = ScheduledLR(optimizer, linear().curve(Horizon(10)))
    for t in range(10):
        assert optimizer.param_groups[0]["lr"] == linear().curve(Horizon(10))(t, LR)
        optimizer.zero_grad()
        accelerator.backward(net(torch.ones(2, 3)).square().mean())
        optimizer.step()
        for _ in range(4):
            scheduler.step()
    assert scheduler.last_epoch == inner.updates == 10
