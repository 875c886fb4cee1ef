"""The same runs under `lightning.pytorch` and under `pytorch_lightning`."""

from __future__ import annotations

import importlib.util
import inspect
import pkgutil
import re
import sys
from functools import partial
from importlib import import_module
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

import lit_optim
from lit_optim import callbacks as our_callbacks
from lit_optim.errors import UsageError
from lit_optim.schedules import metric_schedules
from lit_optim.schedules.library import constant_warmup, linear
from lit_optim.training.overrides import FitCallback
from lit_optim.wrappers import Ema, Wrapped
from tests.clients.conftest import import_client
from tests.conftest import ROOT

LR, BATCHES = 0.1, 10
PACKAGES = ("lightning.pytorch", "pytorch_lightning")


@pytest.fixture(params=PACKAGES)
def package(request):
    return import_client(request.param)


def modules(package):
    """Modules and data as a user of one of the packages writes them."""

    class Net(package.LightningModule):
        monitor = ("val/loss", "min")

        def __init__(self, configure=None):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
            self.configure, self.used = configure, []

        def configure_optimizers(self):
            return self.configure(self)

        def training_step(self, batch, batch_idx):
            return (self.net(batch[0]) - 1).square().mean()

        def validation_step(self, batch, batch_idx):
            self.log("val/loss", (self.net(batch[0]) - 1).square().mean())

        def on_before_optimizer_step(self, optimizer):
            self.used.append(float(optimizer.param_groups[0]["lr"]))

    class Mixed(lit_optim.OptimizerMixin, package.LightningModule):
        def __init__(self, width, optimizer, scheduler=None, param_groups=None):
            super().__init__()
            self.save_hyperparameters()
            self.optimizer, self.scheduler = optimizer, scheduler
            self.param_groups = param_groups
            self.net = nn.Linear(3, width).double()

        def training_step(self, batch, batch_idx):
            return (self.net(batch[0]) - 1).square().mean()

    return SimpleNamespace(Net=Net, Mixed=Mixed)


def loader():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4 * BATCHES, 3, dtype=torch.float64, generator=generator)
    return DataLoader(TensorDataset(x), batch_size=4)


def trainer(package, path, callbacks=(), **run):
    quiet = {
        "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return package.Trainer(callbacks=list(callbacks), default_root_dir=path, **(quiet | run))


def fit(package, path, module, callbacks=(), ckpt=None, **run):
    made = trainer(package, path, callbacks, **run)
    made.fit(module, loader(), loader(), ckpt_path=ckpt, weights_only=True)
    return made


def ours(make=None, schedule=None, **parts):
    make = make or partial(lit_optim.AdamW, lr=LR)
    return lambda self: lit_optim.configure_optimizers(self, make, schedule, **parts)


def falling(steps):
    return pytest.approx([LR * (steps - 1 - t) / steps for t in range(steps)], abs=1e-15)


def test_the_schedule_covers_the_run(package, tmp_path):
    module = modules(package).Net(ours(schedule=linear()))
    run = fit(package, tmp_path, module, max_epochs=2)
    assert module.used == falling(2 * BATCHES)
    assert [g["name"] for g in run.optimizers[0].param_groups] == ["decay", "no_decay"]


@pytest.mark.parametrize(
    "make",
    [
        Wrapped(partial(lit_optim.AdamW, lr=LR), partial(Ema, decay=0.5)),
        partial(lit_optim.Muon, lr=LR),
        lambda groups: Ema(lit_optim.Muon(groups, lr=LR)),
        partial(lit_optim.ScheduleFreeAdamW, lr=LR),
    ],
    ids=["ema", "muon", "function", "schedule-free"],
)
def test_a_resumed_run_is_the_whole_run(package, make, tmp_path):
    kinds, configure = modules(package), ours(make, constant_warmup(warmup=5))
    whole, half, resumed = (kinds.Net(configure) for _ in range(3))
    fit(package, tmp_path, whole, max_epochs=2)
    fit(package, tmp_path, half, max_epochs=1).save_checkpoint(tmp_path / "half.ckpt")
    fit(package, tmp_path, resumed, ckpt=tmp_path / "half.ckpt", max_epochs=2)
    for p, q in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_mixin(package, tmp_path):
    kinds = modules(package)
    module = kinds.Mixed(2, partial(lit_optim.SGD, lr=LR), linear(), lit_optim.param_groups.single)
    run = fit(package, tmp_path, module, max_epochs=1, limit_val_batches=0)
    assert [g["name"] for g in run.optimizers[0].param_groups] == ["all"]
    assert run.optimizers[0].param_groups[0]["lr"] == 0
    assert dict(module.hparams) == {"width": 2}


def test_longer_runs_of_the_mixin(package, tmp_path):
    """max_epochs from 1 to 2, in Python: refused with the way out, and both ways out."""

    def module(horizon):
        made = modules(package).Mixed(2, partial(lit_optim.SGD, lr=LR), linear())
        made.horizon = horizon
        return made

    path = tmp_path / "first.ckpt"
    fit(package, tmp_path, module("error"), max_epochs=1).save_checkpoint(path)
    with pytest.raises(UsageError, match=r"has 10 steps, this one 20; .*horizon="):
        fit(package, tmp_path, module("error"), ckpt=path, max_epochs=2)
    kept, extended = module("keep"), module("extend")
    fit(package, tmp_path, kept, ckpt=path, max_epochs=2)
    assert kept.lr_schedulers().curve.total == BATCHES
    lrs = []
    extended.on_before_optimizer_step = lambda optimizer: lrs.append(
        optimizer.param_groups[0]["lr"]
    )
    fit(package, tmp_path, extended, ckpt=path, max_epochs=2)
    whole = [LR * (2 * BATCHES - 1 - t) / (2 * BATCHES) for t in range(2 * BATCHES)]
    assert lrs[1:] == pytest.approx(whole[BATCHES + 1 :], abs=1e-15)
    with pytest.raises(UsageError, match="horizon must be one of error, keep, extend, got 'kept'"):
        fit(package, tmp_path, module("kept"), max_epochs=1)
    forecast = module(24)  # a model's own attribute
    fit(package, tmp_path, forecast, max_epochs=1)


def public_callbacks(path):
    """One of each class of callbacks that users make."""
    arguments = {
        "Checkpoint": {"dirpath": str(path), "monitor": "val/loss"},
        "HistoryFile": {"path": path / "history.csv"},
        "Pruning": {"path": path / "stop.json"},
        "MonitorCheck": {"watched": {"val/loss": "monitor"}},
    }
    for file in pkgutil.iter_modules(our_callbacks.__path__):
        module = import_module(f"{our_callbacks.__name__}.{file.name}")
        for name, kind in vars(module).items():
            own = inspect.isclass(kind) and kind.__module__ == module.__name__
            if name.startswith("_") or name == "GradientRelease":  # refuses FullBatch
                continue
            if own and hasattr(kind, "on_fit_start") and not issubclass(kind, FitCallback):
                yield kind(**arguments.get(name, {}))


def test_every_callback(package, tmp_path):
    """The trainer knows each of them: for Lightning they are callbacks of its own kinds."""
    module = modules(package).Net(ours(schedule=linear()))
    made = list(public_callbacks(tmp_path))
    assert len(made) > 12
    logger = package.loggers.TensorBoardLogger(tmp_path, name="", version="")
    run = fit(
        package, tmp_path, module, made, max_epochs=2, enable_progress_bar=True, logger=logger,
        enable_model_summary=True, enable_checkpointing=True, log_every_n_steps=1,
    )  # fmt: skip
    kinds = (package.callbacks.Checkpoint, package.callbacks.ProgressBar,
             package.callbacks.ModelSummary)  # fmt: skip
    for kind in kinds:  # Lightning would have added one of its own
        assert len([c for c in run.callbacks if isinstance(c, kind)]) == 1
    assert all(isinstance(c, package.Callback) for c in run.callbacks)
    assert (tmp_path / "best.ckpt").exists()
    assert (tmp_path / "last.ckpt").exists()
    assert run.checkpoint_callback.best_model_path == str(tmp_path / "best.ckpt")


def test_a_schedule_that_follows_a_metric(package, tmp_path):
    schedule = metric_schedules.plateau(patience=0, threshold=10.0, factor=0.1)
    module = modules(package).Net(ours(schedule=schedule))
    fit(package, tmp_path, module, max_epochs=4)
    assert module.used[0] == LR
    assert module.used[-1] < LR / 2


class Finetuning:
    """Lightning's example: the backbone is frozen until the second epoch."""

    def __new__(cls, package):
        class Thaw(package.callbacks.BaseFinetuning):
            def freeze_before_training(self, pl_module):
                self.freeze(pl_module.net[0])

            def finetune_function(self, pl_module, epoch, optimizer):
                if epoch == 1:
                    self.unfreeze_and_add_param_group(pl_module.net[0], optimizer, lr=LR / 4)

        return Thaw()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strategy", ["linear", "cos"])
@pytest.mark.parametrize("accumulated", [1, 3, None], ids=["batches", "accumulated", "manual"])
def test_stochastic_weight_averaging(package, tmp_path, accumulated, strategy):
    """Lightning's callback puts a scheduler of its own in the place of a schedule, as of torch's.

    In manual optimization the module steps torch's, and nothing steps the callback's.
    """
    epochs, every = 4, accumulated or 1
    steps = epochs * -(-BATCHES // every)

    class Manual(modules(package).Net):
        automatic_optimization = accumulated is not None

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if self.automatic_optimization:
                return loss
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
            if isinstance(scheduler := self.lr_schedulers(), LambdaLR):
                scheduler.step()

    def torchs(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=LR)
        scheduler = LambdaLR(optimizer, lambda t: (steps - 1 - t) / steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    found = []
    for configure in (torchs, ours(partial(torch.optim.SGD, lr=LR), linear())):
        callback = package.callbacks.StochasticWeightAveraging(
            0.02, swa_epoch_start=2, annealing_epochs=2, annealing_strategy=strategy
        )
        module = Manual(configure)
        fit(
            package, tmp_path, module, [callback], max_epochs=epochs, limit_val_batches=0,
            **({} if accumulated is None else {"accumulate_grad_batches": accumulated}),
        )  # fmt: skip
        found.append(module.used)
    assert len(found[0]) == steps
    assert found[1] == pytest.approx(found[0], rel=1e-9)


def test_finetuning(package, tmp_path):
    module = modules(package).Net(ours())
    run = fit(package, tmp_path, module, [Finetuning(package)], max_epochs=2)
    groups = run.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == [LR, LR, LR / 4]
    assert groups[-1]["param_names"] == ["net.0.weight", "net.0.bias"]


@pytest.mark.parametrize("accumulated", [{0: 3}, {0: 3, 1: 1}], ids=str)
def test_accumulation(package, tmp_path, accumulated):
    module = modules(package).Net(ours(schedule=linear()))
    callback = package.callbacks.GradientAccumulationScheduler(dict(accumulated))
    run = fit(package, tmp_path, module, [callback], max_epochs=3)
    [config] = run.lr_scheduler_configs
    assert config.scheduler.last_epoch == config.scheduler.curve.total == run.global_step


def test_lazy_layers(package, tmp_path):
    class Lazy(modules(package).Net):
        def __init__(self, configure):
            super().__init__(configure)
            self.net = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)).double()

    run = fit(package, tmp_path, Lazy(ours()), max_epochs=1)
    assert run.global_step == BATCHES


def test_a_module_of_the_other_package():
    """Lightning refuses it in `fit`; whoever attaches it by hand is told what is wrong."""
    first, second = map(import_client, PACKAGES)
    module = modules(second).Net(ours())
    module._trainer = first.Trainer(logger=False, enable_checkpointing=False)
    with pytest.raises(UsageError) as error:
        lit_optim.configure_optimizers(module, "adamw")
    assert str(error.value) == (
        "Net is a LightningModule of pytorch_lightning, and its Trainer one of lightning.pytorch: "
        "import both from the same package"
    )


def test_the_mixin_is_a_module_by_itself_and_comes_first():
    lightning = import_client("lightning.pytorch")

    class Alone(lit_optim.OptimizerMixin):
        pass

    assert issubclass(Alone, lightning.LightningModule)
    with pytest.raises(UsageError, match="OptimizerMixin comes before the LightningModule"):
        type("Late", (lightning.LightningModule, lit_optim.OptimizerMixin), {})


def test_pytorch_lightning_is_enough(monkeypatch):
    """The module that chooses among the packages, where one cannot be imported."""
    other = import_client("pytorch_lightning")
    for name in ("lightning", "lightning.pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.find_spec("lit_optim.lightning_classes")
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert alone.packages() == ("pytorch_lightning",)
    assert alone.Callback is other.Callback
    assert alone.ModelCheckpoint is other.callbacks.ModelCheckpoint
    assert alone.is_a(other.callbacks.EarlyStopping("x"), "callbacks.EarlyStopping")


class Breaks:
    """An old pytorch_lightning beside a new torch, as it is often found."""

    def find_spec(self, name, path=None, target=None):
        if name == "pytorch_lightning":
            raise ImportError("cannot import name '_compare_version' from 'torchmetrics'")


@pytest.mark.parametrize("fault", ["broken", "old"])
def test_a_package_that_cannot_be_used_does_no_harm(monkeypatch, fault):
    first = import_client("lightning.pytorch")
    if fault == "broken":
        monkeypatch.delitem(sys.modules, "pytorch_lightning", raising=False)
        monkeypatch.setattr(sys, "meta_path", [Breaks(), *sys.meta_path])
    else:
        old = ModuleType("pytorch_lightning")
        old.__version__ = "1.9.5"
        monkeypatch.setitem(sys.modules, "pytorch_lightning", old)
    spec = importlib.util.find_spec("lit_optim.lightning_classes")
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert alone.packages() == ("lightning.pytorch",)
    assert alone.Callback is first.Callback


#: Files of the program train.py and of LightningCLI, which need `lightning` itself.
#: Those that only our own programs import, and the LightningCLI.
NEED_LIGHTNING = {
    "batch_plan.py",
    "cli.py",
    "cli_parser.py",
    "epoch_loop.py",
    "profiler.py",
    "sharded.py",
}


def test_no_other_module_imports_lightning_itself():
    """Of those that `configure_optimizers` and the callbacks are made of."""
    folders = ("callbacks", "checkpoints", "lightning", "training")
    files = [path for name in folders for path in (ROOT / "lit_optim" / name).glob("*.py")]
    assert len(files) > 40
    for path in files:
        if path.name not in NEED_LIGHTNING:
            text = path.read_text("utf-8")
            assert not re.search(r"^\s*(from|import) lightning\b", text, re.MULTILINE), path
