"""batch=full: one update per epoch by the gradient of the mean loss over the training set."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from itertools import chain

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from omegaconf import OmegaConf
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lit_optim
from lit_optim.callbacks.full_batch import FullBatch
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.check import to_plain
from lit_optim.config.composing import compose_config
from lit_optim.config.places import groups
from lit_optim.errors import UsageError
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import cosine_warmup
from lit_optim.tasks.classification import Digits
from lit_optim.tasks.classifiers import Linear
from lit_optim.tasks.data import Batches
from tests.events import scalars
from tests.lightning.modules import attach, trainer
from tests.whole_runs import assert_same_parameters, only_run

SAMPLES = 10
SKIP = 1e6  # a target that a batch is skipped for


class Recorder(torch.optim.SGD):
    """Records the parameters before each update and their gradients."""

    def __init__(self, params):
        super().__init__(params, lr=0.1)
        self.updates = []

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure() if closure else None
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.updates.append([(p, p.clone(), p.grad.clone()) for p in params])
        for p in params:
            p -= 0.1 * p.grad
        return loss


class Net(LightningModule):
    """Float64; its mean loss is None for a batch that holds the target SKIP."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        self.seen: list[int] = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.seen.append(len(x))
        return None if (y == SKIP).any() else mse_loss(self.net(x), y)


class Data(LightningDataModule):
    """Ten samples in batches of 4, 4 and 2; in a new order each epoch."""

    def __init__(self, batch_size: int = 4, skip: Sequence[int] = (), shuffle: bool = True):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(2, SAMPLES, 3, dtype=torch.float64, generator=generator)
        self.y = self.y[:, :1]
        self.y[list(skip)] = SKIP
        self.batch_size, self.shuffle = batch_size, shuffle

    def train_dataloader(self):
        pairs = TensorDataset(self.x, self.y)
        return DataLoader(pairs, batch_size=self.batch_size, shuffle=self.shuffle)


def fit(tmp_path, data, net=None, optimizer=Recorder, **kwargs):
    net = attach(net or Net(), optimizer)
    limits = {"max_epochs": 3, "callbacks": [FullBatch()]}
    run = trainer(tmp_path, **(limits | kwargs))
    run.fit(net, data)
    return net, run


def gradients_of_the_mean(net, update, x, y, clip=None):
    """At the parameters that the update began with, by one backward pass over all samples."""
    twin = copy.deepcopy(net.net)
    names = {id(p): name for name, p in net.net.named_parameters()}
    parameters = dict(twin.named_parameters())
    ordered = [parameters[names[id(p)]] for p, _, _ in update]
    with torch.no_grad():
        for p, (_, before, _) in zip(ordered, update, strict=True):
            p.copy_(before)
    mse_loss(twin(x), y).backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(ordered, clip)
    return [p.grad for p in ordered]


def assert_exact(net, run, x, y, clip=None, updates=3):
    assert len(run.optimizers[0].updates) == updates
    assert run.global_step == run.current_epoch
    for update in run.optimizers[0].updates:
        assert len(update) == 4
        expected = gradients_of_the_mean(net, update, x, y, clip)
        for (_, _, found), wanted in zip(update, expected, strict=True):
            assert (found - wanted).abs().max() <= 1e-10


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 100])
def test_one_update_per_epoch_by_the_gradient_of_the_whole_set(tmp_path, batch_size):
    data = Data(batch_size)
    net, run = fit(tmp_path, data)
    assert_exact(net, run, data.x, data.y)
    assert max(net.seen) <= batch_size  # nothing ever holds more
    assert sum(net.seen) == 3 * SAMPLES


def test_without_the_callback_a_ragged_last_batch_weighs_too_much(tmp_path):
    """So the tests of this file can fail."""
    data = Data()
    net, run = fit(tmp_path, data, callbacks=[], accumulate_grad_batches=2**30)
    with pytest.raises(AssertionError):
        assert_exact(net, run, data.x, data.y)


@pytest.mark.parametrize("clip", [0.01, 1e6])
def test_clipping_sees_the_whole_gradient(tmp_path, clip):
    data = Data()
    net, run = fit(tmp_path, data, gradient_clip_val=clip)
    assert_exact(net, run, data.x, data.y, clip)


def test_a_loader_without_length(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(data.x, data.y, strict=True)

    data = Data()
    data.train_dataloader = lambda: DataLoader(Stream(), batch_size=4)
    net, run = fit(tmp_path, data, max_epochs=-1, max_steps=3)
    assert_exact(net, run, data.x, data.y)


@pytest.mark.parametrize("skipped", [range(4), range(4, 8), range(8, 10)], ids=str)
def test_a_skipped_batch_is_left_out_of_the_mean(tmp_path, skipped):
    """The first, one in between and the last."""
    data = Data(skip=skipped[-1:], shuffle=False)
    net, run = fit(tmp_path, data)
    kept = [i for i in range(SAMPLES) if i not in skipped]
    assert_exact(net, run, data.x[kept], data.y[kept])


def test_an_epoch_of_skipped_batches_updates_nothing(tmp_path):
    net, run = fit(tmp_path, Data(skip=(0, 4, 8), shuffle=False))
    assert run.optimizers[0].updates == [[]] * 3
    for p, initial in zip(net.parameters(), Net().parameters(), strict=True):
        assert torch.equal(p, initial)


def test_a_loss_scaler_changes_nothing(tmp_path):
    """Of 16-mixed; float64 is not cast, so that scaling is all that differs."""
    data = Data()
    precision = MixedPrecision("16-mixed", "cpu")
    net, run = fit(tmp_path, data, plugins=[precision], gradient_clip_val=0.01)
    assert precision.scaler.get_scale() > 1
    assert_exact(net, run, data.x, data.y, clip=0.01)


def test_half_precision_does_not_overflow(tmp_path):
    """Sums over 1,000 samples, or a loss divided by a large number, would leave float16's range."""
    data, net = Data(batch_size=1000), Net()
    data.x, data.y = data.x.repeat(250, 1).half(), 100 * data.y.repeat(250, 1).half()
    net, run = fit(tmp_path, data, net, precision="16-true", max_epochs=1)
    (update,) = run.optimizers[0].updates
    net.double()
    wide = [(p, before.double(), grad) for p, before, grad in update]
    expected = gradients_of_the_mean(net, wide, data.x.double(), data.y.double())
    for (_, _, found), wanted in zip(update, expected, strict=True):
        assert found.dtype == torch.float16
        torch.testing.assert_close(found.double(), wanted, rtol=0.05, atol=0.05)


def test_an_optimizer_that_evaluates_the_loss_again(tmp_path):
    """With all samples in one batch it is what it would be alone; else it is refused."""
    data, make = Data(batch_size=100), partial(torch.optim.LBFGS, max_iter=5)
    net = attach(Net(), make, param_groups=lit_optim.param_groups.single)
    trainer(tmp_path, max_epochs=3, callbacks=[FullBatch()]).fit(net, data)
    alone = Net().net
    optimizer = make(alone.parameters())

    def closure():
        optimizer.zero_grad()
        loss = mse_loss(alone(data.x), data.y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    for p, wanted in zip(net.parameters(), alone.parameters(), strict=True):
        assert (p - wanted).abs().max() <= 1e-10
    net = attach(Net(), make, param_groups=lit_optim.param_groups.single)
    with pytest.raises(UsageError, match="LBFGS evaluates the loss again within an update"):
        trainer(tmp_path, max_epochs=3, callbacks=[FullBatch()]).fit(net, Data())


@pytest.mark.parametrize("limits", [{"max_epochs": 8}, {"max_steps": 8, "max_epochs": -1}], ids=str)
@pytest.mark.parametrize("warmup", ["2 epochs", "20 samples", "25%"])
def test_schedules_count_updates(tmp_path, limits, warmup):
    schedule = cosine_warmup(warmup=warmup)
    net = Net()
    used = []
    net.on_before_optimizer_step = lambda optimizer: used.append(optimizer.param_groups[0]["lr"])
    attach(net, Recorder, schedule)
    run = trainer(tmp_path, callbacks=[FullBatch()], **limits)
    run.fit(net, Data())
    curve = cosine_warmup(warmup=2).curve(Horizon(8))
    assert used == pytest.approx([0.1 * curve(t) for t in range(8)], abs=1e-15)
    assert run.estimated_stepping_batches == 8  # what the progress bar shows


def test_a_trainer_can_fit_again(tmp_path):
    data = Data()
    net, run = fit(tmp_path, data, max_epochs=2)
    run.fit_loop.max_epochs = 5
    run.fit(net, data)
    assert_exact(net, run, data.x, data.y, updates=3)  # the optimizer is made anew


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Names(Data):
    def train_dataloader(self):
        return [["a", "b"]]


@pytest.mark.parametrize(
    ("net", "data", "kwargs", "message"),
    [
        (Net, Data, {"accumulate_grad_batches": 4}, "trainer.accumulate_grad_batches=4, but a"),
        (Manual, Data, {}, "Manual optimizes manually"),
        (Net, Names, {}, "cannot count the samples of a batch without tensors, a list"),
    ],
    ids=str,
)
def test_what_is_refused(tmp_path, net, data, kwargs, message):
    with pytest.raises(UsageError, match=message):
        fit(tmp_path, data(), net(), **kwargs)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", range(6, 32))
def test_no_sample_is_left_out_on_several_devices(count, world_size):
    """With at least two samples per device in a micro-batch."""
    size = 2 * world_size
    ranks = []
    for rank in range(world_size):
        sampler = Batches(range(count), size, True, 0, rank, world_size, "nonempty")
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
    together = [list(chain(*parts)) for parts in zip(*ranks, strict=True)]
    assert all(part for batches in ranks for part in batches)
    assert sorted(chain(*together)) == list(range(count))
    assert max(map(len, together)) <= size


def test_from_the_command_line_on_two_processes(train, tmp_path):
    """Against one process whose batch is the whole set, 825 samples: odd shares."""
    common = ("data=digits", "data.val_share=0.081", "optimizer=sgd", "trainer.precision=64-true")
    common += ("trainer.max_epochs=6", "trainer.gradient_clip_val=0.5", "scheduler.warmup=2")
    common += ("trainer.log_every_n_steps=1", "model=mlp", "optimizer.lr=0.5")
    done = train(*common, "data.batch_size=825")
    assert done.returncode == 0, done.stderr
    whole = only_run(tmp_path)
    done = train(*common, "batch=full", "data.batch_size=100", "trainer=ddp_cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6/6" in done.stderr  # the progress bar counts updates
    assert "Warning" not in done.stdout + done.stderr
    (full,) = {path.parent for path in tmp_path.glob("runs/*/*/config.yaml")} - {whole}
    assert_same_parameters(whole, full)
    expected, found = scalars(whole), scalars(full)
    for tag in ("lr/decay", "val/loss"):  # one of each per update
        assert sorted(found[tag]) == list(range(6))
        assert found[tag] == pytest.approx(expected[tag], rel=1e-6)


def test_mini_is_the_default_and_changes_nothing():
    assert OmegaConf.load(groups()["batch"]["mini"]) == {}
    assert to_plain(compose_config(["batch=mini"])) == to_plain(compose_config([]))
    assert compose_config([]).hydra.runtime.choices.batch == "mini"


def test_single_is_an_update_per_sample(tmp_path):
    cfg = compose_config(["batch=single", "data=digits"])
    data = Digits(cfg.data.batch_size, val_share=0.9)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(attach(Linear(64, 10)), data)
    assert run.global_step == len(data.train_set()) == 90


def test_epochs_are_updates():
    for typed, (steps, epochs) in {
        (): (500, None),
        ("trainer.max_epochs=30",): (-1, 30),
        ("trainer.max_steps=30",): (30, None),
    }.items():
        chosen = compose_config(prepare_command_line(["batch=full", *typed]).argv).trainer
        assert (chosen.max_steps, chosen.max_epochs) == (steps, epochs)
