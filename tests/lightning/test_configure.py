"""configure_optimizers under a real Trainer: groups, horizon, updates, checkpoints."""

from __future__ import annotations

import copy
import math
import pickle
from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision

import lit_optim
from lit_optim.callbacks.learning_rates import LearningRates
from lit_optim.errors import UsageError
from lit_optim.optimizers.sgd import SGD
from lit_optim.param_groups import single
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import cosine_warmup, linear
from tests.lightning.modules import LR, Data, EndlessData, Mixed, Plain, attach, trainer


def planned(schedule, total, **units):
    curve = schedule.curve(Horizon(total, **units))
    return [LR * curve(t) for t in range(total)]


def used(module):
    return [lrs[0] for lrs in module.lrs]


@pytest.mark.parametrize(
    ("limits", "total"),
    [
        ({"max_steps": 23}, 23),
        ({"max_epochs": 3}, 30),
        ({"max_epochs": 3, "max_steps": 12}, 12),
        ({"max_epochs": 1, "max_steps": 500}, 10),
        ({"max_epochs": 3, "accumulate_grad_batches": 4}, 9),
        ({"max_epochs": 2, "limit_train_batches": 5}, 10),
    ],
    ids=str,
)
def test_the_horizon_is_what_the_trainer_does(tmp_path, limits, total):
    module = attach(Plain(), scheduler=linear(warmup="20%"))
    trainer(tmp_path, **limits).fit(module, Data())
    assert used(module) == pytest.approx(planned(linear(warmup="20%"), total), abs=1e-15)


def test_units_of_epochs_and_samples(tmp_path):
    for warmup, steps in [("1 epoch", 10), ("20 samples", 5)]:
        module = attach(Plain(), scheduler=linear(warmup=warmup))
        trainer(tmp_path, max_epochs=3).fit(module, Data())
        assert used(module) == pytest.approx(planned(linear(warmup=steps), 30), abs=1e-15)


def test_total_may_be_shorter_or_longer_than_the_run(tmp_path):
    module = attach(Plain(), scheduler=linear(total=5))
    trainer(tmp_path, max_steps=8).fit(module, Data())
    assert used(module) == pytest.approx([*planned(linear(), 5), 0, 0, 0], abs=1e-15)
    module = attach(Plain(), scheduler=linear(total="2 epochs"))
    trainer(tmp_path, max_steps=8).fit(module, Data())
    assert used(module) == pytest.approx(planned(linear(), 20)[:8], abs=1e-15)


def test_a_run_of_unknown_length_is_refused(tmp_path):
    scheduler = cosine_warmup()
    cases = [
        ({"max_epochs": -1}, Data()),
        ({"max_epochs": 3}, EndlessData()),
        ({"max_epochs": -1, "max_time": "00:00:01:00"}, Data()),
    ]
    for limits, data in cases:
        with pytest.raises(UsageError, match="set max_steps of the trainer or total of the sched"):
            trainer(tmp_path, **limits).fit(attach(Plain(), scheduler=scheduler), data)


def test_endless_data_with_max_steps(tmp_path):
    module = attach(Plain(), scheduler=linear())
    trainer(tmp_path, max_steps=6).fit(module, EndlessData())
    assert used(module) == pytest.approx(planned(linear(), 6), abs=1e-15)


def test_the_schedule_counts_updates_not_calls(tmp_path):
    """A training_step that returns None makes no update, so the lr stays."""
    module = attach(Plain(none_every=2), scheduler=linear())
    trainer(tmp_path, max_epochs=2).fit(module, Data())
    with_gradient = used(module)[1::2]  # Lightning calls the hook for skipped steps too
    assert with_gradient == pytest.approx(planned(linear(), 20)[:10], abs=1e-15)


def test_ratios_between_groups_are_kept(tmp_path):
    def groups(module):
        decay, rest = lit_optim.param_groups.no_decay(module)
        return [decay | {"lr": LR}, rest | {"lr": LR / 4}]

    module = attach(Plain(), scheduler=linear(), param_groups=groups)
    trainer(tmp_path, max_steps=10).fit(module, Data())
    assert all(b == pytest.approx(a / 4) for a, b in module.lrs)


class Adds(Callback):
    """A group on the way, with an lr and a name of its own."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            late = torch.nn.Parameter(torch.ones(1))
            trainer.optimizers[0].add_param_group({"params": [late], "lr": LR / 4, "name": "late"})


def test_a_group_that_is_added_on_the_way_has_the_schedule(tmp_path):
    module = attach(Plain(), scheduler=linear(), param_groups=single)
    logger, curve = CSVLogger(tmp_path), linear().curve(Horizon(30))
    run = trainer(
        tmp_path, max_epochs=3, callbacks=[Adds(), LearningRates()], logger=logger,
        log_every_n_steps=1,
    )  # fmt: skip
    run.fit(module, Data())
    assert [len(lrs) for lrs in module.lrs] == [1] * 10 + [2] * 20
    expected = [LR / 4 * curve(t) for t in range(10, 30)]
    # the update in which it comes is made with the lr it brings
    assert [lrs[1] for lrs in module.lrs[11:]] == pytest.approx(expected[1:])
    with open(f"{logger.log_dir}/metrics.csv", encoding="utf-8") as file:
        assert "lr/late" in file.readline()


def test_default_groups_and_no_scheduler(tmp_path):
    module = attach(Plain())
    run = trainer(tmp_path, max_steps=3)
    run.fit(module, Data())
    assert [g["name"] for g in run.optimizers[0].param_groups] == ["decay", "no_decay"]
    assert [g["weight_decay"] for g in run.optimizers[0].param_groups] == [0.01, 0.0]
    assert used(module) == [LR] * 3
    assert not run.lr_scheduler_configs


def test_stepped_at_every_update(tmp_path):
    run = trainer(tmp_path, max_steps=3)
    run.fit(attach(Plain(), scheduler=linear()), Data())
    (config,) = run.lr_scheduler_configs
    assert (config.interval, config.frequency, config.name) == ("step", 1, "lr")


def test_checkpoints_are_plain_and_continue_to_the_bit(tmp_path):
    scheduler = cosine_warmup(warmup=4)
    straight = attach(Plain(), scheduler=scheduler)
    torch.manual_seed(0)
    initial = copy.deepcopy(straight.state_dict())
    trainer(tmp_path, max_steps=20).fit(straight, Data())

    path = tmp_path / "half.ckpt"
    half = Plain()
    half.load_state_dict(initial)

    class Stop(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step == 10:
                trainer.save_checkpoint(path)
                trainer.should_stop = True

    trainer(tmp_path, max_steps=20, callbacks=[Stop()]).fit(
        attach(half, scheduler=scheduler), Data()
    )
    loaded = torch.load(path)  # under torch's default weights_only
    assert loaded["lr_schedulers"] == [{"last_epoch": 10, "total": 20}]
    resumed = attach(Plain(), scheduler=scheduler)
    trainer(tmp_path, max_steps=20).fit(resumed, Data(), ckpt_path=path)
    assert used(half) + used(resumed) == used(straight)
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UsageError, match="the checkpoint's schedule has 20 steps, this one 30"):
        trainer(tmp_path, max_steps=30).fit(
            attach(Plain(), scheduler=scheduler), Data(), ckpt_path=path
        )


def test_mixin(tmp_path):
    module = Mixed(2, partial(SGD, lr=LR), linear(), single)
    run = trainer(tmp_path, max_steps=4, enable_checkpointing=True)
    run.fit(module, Data())
    assert [g["name"] for g in run.optimizers[0].param_groups] == ["all"]
    assert dict(module.hparams) == {"width": 2}
    path = tmp_path / "mixin.ckpt"
    run.save_checkpoint(path)
    assert torch.load(path)["hyper_parameters"] == {"width": 2}
    loaded = Mixed.load_from_checkpoint(path, optimizer=partial(SGD, lr=LR))
    assert torch.equal(loaded.net.weight, module.net.weight)


def test_an_attached_module_can_be_copied_and_pickled():
    module = attach(Plain(), scheduler=linear())
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin.net[0].weight, module.net[0].weight)


class Single(Plain):
    """In float32, with a loss that overflows under a large scale."""

    def __init__(self):
        super().__init__()
        self.net.float()

    def training_step(self, batch, batch_idx):
        return 100 * self.net(batch[0].float()).square().mean()


def test_an_overflow_moves_no_schedule(tmp_path, recwarn):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18)  # halved at each overflow
    module = attach(Single(), scheduler=linear())
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    run = trainer(tmp_path, max_steps=20, plugins=[plugin])
    run.fit(module, Data())
    overflows = 18 - int(math.log2(scaler.get_scale()))
    assert 3 < overflows < 17
    [config] = run.lr_scheduler_configs
    assert config.scheduler.last_epoch == 20 - overflows
    expected = planned(linear(), 20)
    assert used(module) == pytest.approx([expected[0]] * overflows + expected[: 20 - overflows])
    assert not [w for w in recwarn if "lr_scheduler.step()" in str(w.message)]
