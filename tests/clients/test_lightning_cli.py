"""LightningCLI with our optimizers and schedules."""

from __future__ import annotations

import copy
import inspect
import json

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

import lit_optim
from lit_optim import lr_schedulers
from lit_optim.optimizers import find_optimizer
from lit_optim.schedules.registry import functions_by_name
from tests.clients.conftest import import_client
from tests.lightning.modules import Plain
from tests.sampling import sample

import_client("jsonargparse")
from lightning.pytorch.cli import (  # noqa: E402
    LightningArgumentParser,
    LightningCLI,
    LRSchedulerCallable,
    OptimizerCallable,
)

from tests.clients.cli_runs import OPTIMIZERS, STEPS, cosine, linear, round_trip, run  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class MyAdamW(lit_optim.AdamW):
    pass


class MyLBFGS(lit_optim.LBFGS):
    pass


class MyLion(lit_optim.Lion):
    pass


class Recorded(Plain):
    """Records the lr after each update: where nobody steps the schedule, it moves in the next."""

    def on_before_optimizer_step(self, optimizer):
        pass

    def on_train_batch_end(self, *args):
        self.lrs.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])


class TwoNets(LightningModule):
    """Two optimizers, as Lightning's documentation has them: by `OptimizerCallable`."""

    def __init__(
        self,
        first: OptimizerCallable = lit_optim.AdamW,
        second: OptimizerCallable = torch.optim.Adam,
        schedule: LRSchedulerCallable = torch.optim.lr_scheduler.ConstantLR,
    ):
        super().__init__()
        self.automatic_optimization = False
        net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
        self.nets = nn.ModuleList([net, copy.deepcopy(net)])
        self.first, self.second, self.schedule = first, second, schedule
        self.seen: list[list[float]] = []

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers()
        for net, optimizer in zip(self.nets, optimizers, strict=True):
            optimizer.zero_grad()
            self.manual_backward(net(batch[0]).square().mean())
            optimizer.step()
        self.seen.append([one.param_groups[0]["lr"] for one in optimizers])

    def configure_optimizers(self):
        first, second = self.first(self.nets[0]), self.second(self.nets[1].parameters())
        return [first, second], [self.schedule(first)]


@pytest.fixture(scope="module")
def ordinary():
    """The parser of LightningCLI."""
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_optimizer_args()
    parser.add_lr_scheduler_args()
    return parser


def names_of_others(kind):
    """The names of subclasses that are neither torch's nor ours; transformers has an Adafactor."""
    names = set()
    for one in type.__subclasses__(kind):
        if not one.__module__.startswith(("torch.", "lit_optim.")):
            names.add(one.__name__)
        names |= names_of_others(one)
    return names


def plain(value):
    """Lists in place of tuples, as in a file."""
    return json.loads(json.dumps(value))


class TestOrdinaryCLI:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_every_optimizer_is_parsed(self, name, ordinary):
        kind = find_optimizer(name)
        _, dumped = round_trip(ordinary, f"--optimizer=lit_optim.{kind.__name__}")
        given = dumped["optimizer"]
        assert given["class_path"] == f"lit_optim.{kind.__name__}"
        parameters = dict(inspect.signature(kind).parameters)
        parameters.pop("params")
        optional = {k for k, p in parameters.items() if p.default is not p.empty}
        assert given["init_args"].keys() >= optional
        for key in optional:
            assert given["init_args"][key] == plain(parameters[key].default)

    @pytest.mark.parametrize("name", sample(functions_by_name(), 13))
    def test_every_schedule_is_parsed(self, name, ordinary):
        path = f"lit_optim.lr_schedulers.{name}"
        _, dumped = round_trip(ordinary, f"--lr_scheduler={path}", "--lr_scheduler.steps=20")
        given = dumped["lr_scheduler"]
        assert given["class_path"] == path
        assert given["init_args"]["steps"] == 20
        own = inspect.signature(functions_by_name()[name]).parameters.values()
        defaults = {p.name: p.default for p in own if p.kind is p.POSITIONAL_OR_KEYWORD}
        assert {key: given["init_args"][key] for key in defaults} == plain(defaults)

    def test_names_of_torch_are_torchs(self, ordinary):
        """Also where ours have been imported, by name or all of them."""
        shared = [k.__name__ for k in map(find_optimizer, OPTIMIZERS)]
        others = names_of_others(torch.optim.Optimizer)
        shared = [name for name in shared if hasattr(torch.optim, name) and name not in others]
        assert {"AdamW", "Adam", "SGD"} < set(shared)
        for name in shared:
            config, _ = round_trip(ordinary, f"--optimizer={name}", "--optimizer.lr=0.1")
            assert config.optimizer.class_path == f"torch.optim.{name}"
        for name in ("StepLR", "OneCycleLR", "ExponentialLR"):
            assert name in lr_schedulers.__all__
            assert getattr(lr_schedulers, name).__name__ == name
            needs = {"StepLR": "step_size=3", "OneCycleLR": "max_lr=1", "ExponentialLR": "gamma=.5"}
            argv = f"--lr_scheduler={name}", f"--lr_scheduler.{needs[name]}"
            config, _ = round_trip(ordinary, *argv)
            assert config.lr_scheduler.class_path == f"torch.optim.lr_scheduler.{name}"

    def test_a_name_that_torch_does_not_have_is_ours(self, ordinary):
        for name in ("Lion", "Soap", "Scion"):
            kind = find_optimizer(name.lower())
            config, _ = round_trip(ordinary, f"--optimizer={kind.__name__}")
            assert config.optimizer.class_path == f"lit_optim.{kind.__name__}"

    def test_subclasses_of_ours_are_found(self, ordinary):
        for name in ("MyAdamW", "MyLBFGS", "MyLion"):
            config, _ = round_trip(ordinary, f"--optimizer={name}")
            assert config.optimizer.class_path == f"{__name__}.{name}"

    def test_help_lists_the_arguments_of_a_schedule(self, ordinary, capsys):
        with pytest.raises(SystemExit):
            ordinary.parse_args(["--lr_scheduler.help=lit_optim.lr_schedulers.cosine_warmup"])
        printed = capsys.readouterr().out
        for argument in ("warmup", "min_lr_ratio", "steps_per_epoch"):
            assert f"--lr_scheduler.{argument}" in printed

    def test_muon_and_a_schedule_in_epochs(self):
        """Muon gets bare parameters there; the schedule is stepped once an epoch, and no matter."""
        argv = ["fit", "--optimizer=lit_optim.Muon", "--optimizer.lr=0.02"]
        argv += ["--lr_scheduler=lit_optim.lr_schedulers.cosine_warmup"]
        argv += ["--lr_scheduler.warmup=20%", f"--lr_scheduler.steps={STEPS}"]
        cli = run(LightningCLI, Recorded, argv)
        (config,) = cli.trainer.lr_scheduler_configs
        assert config.interval == "epoch"
        (optimizer,) = cli.trainer.optimizers
        assert {group["role"] for group in optimizer.param_groups} > {"hidden", "norm"}
        hidden = [group["role"] for group in optimizer.param_groups].index("hidden")
        lrs = [lrs[hidden] for lrs in cli.model.lrs]
        assert lrs == pytest.approx([0.02 * cosine(t, 2) for t in range(STEPS)], abs=1e-12)

    def test_callables_of_a_module(self):
        argv = ["fit", "--model.first=lit_optim.Muon", "--model.first.lr=0.02"]
        argv += ["--model.second=lit_optim.Lion", "--model.second.lr=0.001"]
        argv += ["--model.schedule=lit_optim.lr_schedulers.linear_warmup"]
        argv += ["--model.schedule.warmup=0", f"--model.schedule.steps={STEPS}"]
        cli = run(LightningCLI, TwoNets, argv)
        first, second = cli.trainer.optimizers
        assert type(first) is lit_optim.Muon
        assert type(second) is lit_optim.Lion
        firsts, seconds = zip(*cli.model.seen, strict=True)
        expected = [0.02 * linear(t) for t in range(STEPS)]
        assert firsts == pytest.approx(expected, abs=1e-12)
        assert set(seconds) == {0.001}
