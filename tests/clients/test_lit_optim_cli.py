"""`LitOptimCLI`: LightningCLI that knows the names of our optimizers, schedules and the rest."""

from __future__ import annotations

import contextlib
import io
import warnings
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule

import lit_optim
from lit_optim.config.places import groups
from lit_optim.optimizers import find_optimizer
from lit_optim.schedules.registry import functions_by_name, schedules_by_name
from lit_optim.wrappers import Wrapped
from tests.clients.conftest import import_client
from tests.lightning.modules import Data, Plain
from tests.sampling import sample

import_client("jsonargparse")
from lightning.pytorch.cli import LightningArgumentParser  # noqa: E402

from lit_optim.lightning.cli import LitOptimCLI  # noqa: E402
from lit_optim.lightning.cli_parser import NAMES, add_optimizer_arguments  # noqa: E402
from tests.clients.cli_runs import (  # noqa: E402
    OPTIMIZERS,
    STEPS,
    TRAINER,
    cosine,
    linear,
    round_trip,
    run,
)

pytestmark = pytest.mark.filterwarnings("ignore")


class Own(Plain):
    """A module with a `configure_optimizers` of its own."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Evaluating(Data):
    val_dataloader = test_dataloader = Data.train_dataloader


def fail(*argv, **kwargs):
    """The last line that a command line prints to the user before it ends with code 2."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), pytest.raises(SystemExit) as ended:
        run(argv=argv, **kwargs)
    assert ended.value.code == 2
    return printed.getvalue().strip().splitlines()[-1]


def print_config(*argv, capsys):
    with pytest.raises(SystemExit) as ended:
        run(argv=("fit", *argv, "--print_config"))
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def ours():
    """The parser of LitOptimCLI."""
    parser = LightningArgumentParser(exit_on_error=False)
    add_optimizer_arguments(parser)
    return parser


class TestChoices:
    @pytest.mark.parametrize("name", sample(OPTIMIZERS, 10))
    def test_every_optimizer(self, name, ours):
        config = ours.parse_args([f"--optimizer={name}"])
        assert config.optimizer.class_path == f"lit_optim.{find_optimizer(name).__name__}"

    @pytest.mark.parametrize("name", sample(functions_by_name(), 13))
    def test_every_schedule(self, name, ours):
        config = ours.parse_args([f"--schedule={name}"])
        assert config.schedule.class_path == f"lit_optim.lr_schedulers.{name}"
        given = config.schedule.as_dict().get("init_args", {})
        assert not {"optimizer", "steps", "horizon"} & given.keys()

    @pytest.mark.parametrize("group", ["param_groups", "wrapper"])
    def test_every_choice(self, group, ours):
        names = groups()[group].keys() - {"none"}
        assert set(NAMES[group]()) == names
        for name in names:
            round_trip(ours, "--optimizer=adamw", f"--{group}={name}")

    def test_the_names_are_those_of_the_command_line(self):
        assert set(NAMES["optimizer"]()) == set(OPTIMIZERS)
        assert {name.rstrip("_") for name in NAMES["schedule"]()} == set(schedules_by_name())

    def test_help_has_the_real_signature(self, ours, capsys):
        for key, name, argument in (
            ("optimizer", "muon", "ns_steps"),
            ("schedule", "wsd", "cooldown"),
            ("wrapper", "ema", "decay"),
        ):
            with pytest.raises(SystemExit):
                ours.parse_args([f"--{key}.help={name}"])
            assert f"--{key}.{argument}" in capsys.readouterr().out


ALL = ("--optimizer=muon", "--optimizer.lr=0.03", "--schedule=cosine_warmup")
ALL += ("--schedule.warmup=20%", "--param_groups=layer_decay", "--param_groups.decay=0.5")
ALL += ("--wrapper=ema", "--wrapper.decay=0.9")


class TestLitOptimCLI:
    def test_the_run_of_configure_optimizers(self):
        """The same weights as a module that calls it itself, and the lr by the formula."""

        class Calls(Plain):
            def configure_optimizers(self):
                return lit_optim.configure_optimizers(
                    self,
                    Wrapped(partial(lit_optim.Muon, lr=0.03), partial(lit_optim.Ema, decay=0.9)),
                    lit_optim.schedules.cosine_warmup("20%"),
                    partial(lit_optim.param_groups.layer_decay, decay=0.5),
                )

        chosen, calls = run(argv=("fit", *ALL)), run(model=Calls, argv=["fit"])
        (config,) = chosen.trainer.lr_scheduler_configs
        assert config.interval == "step"
        assert chosen.model.lrs == calls.model.lrs
        peaks = [group["initial_lr"] for group in chosen.trainer.optimizers[0].param_groups]
        assert len(set(peaks)) > 2
        expected = [[peak * cosine(t, 2) for peak in peaks] for t in range(STEPS)]
        for lrs, now in zip(chosen.model.lrs, expected, strict=True):
            assert lrs == pytest.approx(now, abs=1e-12)
        for p, q in zip(chosen.model.parameters(), calls.model.parameters(), strict=True):
            assert torch.equal(p, q)
        assert isinstance(chosen.trainer.optimizers[0], lit_optim.Ema)

    def test_what_is_printed_runs_the_same(self, tmp_path, capsys):
        printed = print_config(*ALL, capsys=capsys)
        (tmp_path / "config.yaml").write_text(printed)
        again = print_config(f"--config={tmp_path}/config.yaml", capsys=capsys)
        assert again == printed
        typed = run(argv=("fit", *ALL)).model
        read = run(argv=["fit", f"--config={tmp_path}/config.yaml"]).model
        assert read.lrs == typed.lrs
        for p, q in zip(typed.parameters(), read.parameters(), strict=True):
            assert torch.equal(p, q)

    def test_a_file_of_names(self, tmp_path):
        path = tmp_path / "config.yaml"
        path.write_text(
            "fit:\n  optimizer:\n    class_path: adamw\n    init_args: {lr: 0.1}\n"
            "  schedule: {class_path: linear_warmup, init_args: {warmup: 0}}\n"
        )
        cli = run(argv=[f"--config={path}", "fit", "--optimizer.lr=0.2"])
        assert type(cli.trainer.optimizers[0]) is lit_optim.AdamW
        lrs = [lrs[0] for lrs in cli.model.lrs]
        expected = [0.2 * linear(t) for t in range(STEPS)]
        assert lrs == pytest.approx(expected, abs=1e-12)

    def test_the_saved_config_repeats_the_run(self, tmp_path):
        from lightning.pytorch.cli import SaveConfigCallback

        trainer = TRAINER | {"default_root_dir": str(tmp_path)}
        kwargs = {"trainer_defaults": trainer, "save_config_callback": SaveConfigCallback}
        first = run(argv=("fit", *ALL), **kwargs)
        (saved,) = tmp_path.rglob("config.yaml")
        second = run(argv=["fit", f"--config={saved}"])
        assert second.model.lrs == first.model.lrs

    @pytest.mark.parametrize("name", ["validate", "test"])
    def test_other_subcommands(self, name):
        class Evaluated(Plain):
            def validation_step(self, batch, batch_idx):
                self.log("val/loss", self.net(batch[0]).square().mean())

            test_step = validation_step

        cli = run(model=Evaluated, data=Evaluating, argv=[name, *ALL])
        assert cli.trainer.optimizers == []
        assert "val/loss" in cli.trainer.callback_metrics

    def test_run_false(self):
        cli = run(argv=["--optimizer=lion", "--schedule=wsd"], run=False)
        cli.trainer.fit(cli.model, cli.datamodule)
        assert type(cli.trainer.optimizers[0]) is lit_optim.Lion
        assert cli.model.lrs[-1][0] == pytest.approx(0, abs=1e-12)

    def test_any_module(self):
        argv = ["fit", "--model=tests.lightning.modules.Plain", "--model.width=6"]
        cli = run(model=LightningModule, argv=[*argv, "--optimizer=sgd"], subclass_mode_model=True)
        assert cli.model.net[0].out_features == 6
        assert type(cli.trainer.optimizers[0]) is lit_optim.SGD

    def test_a_module_with_its_own(self):
        """Used without --optimizer; overridden with it, and Lightning's warning says so."""
        assert run(model=Own, argv=["fit"]).model.lrs[0] == [0.5]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cli = run(model=Own, argv=["fit", "--optimizer=adamw"])
        assert type(cli.trainer.optimizers[0]) is lit_optim.AdamW
        assert any("will be overridden" in str(one.message) for one in caught)

    def test_a_class_of_torch(self):
        argv = ["fit", "--optimizer=SGD", "--optimizer.lr=0.5", "--schedule=linear_warmup"]
        cli = run(argv=[*argv, "--schedule.warmup=0"])
        assert type(cli.trainer.optimizers[0]) is torch.optim.SGD
        expected = [0.5 * linear(t) for t in range(STEPS)]
        assert [lrs[0] for lrs in cli.model.lrs] == pytest.approx(expected, abs=1e-12)

    def test_what_the_module_returns_can_be_overridden(self):
        class Mine(LitOptimCLI):
            @staticmethod
            def configure_optimizers(lightning_module, optimizer, lr_scheduler=None):
                made = LitOptimCLI.configure_optimizers(lightning_module, optimizer, lr_scheduler)
                return made | {"lr_scheduler": made["lr_scheduler"] | {"name": "mine"}}

        cli = run(Mine, argv=["fit", "--optimizer=adamw", "--schedule=wsd"])
        assert cli.trainer.lr_scheduler_configs[0].name == "mine"

    def test_further_optimizers(self):
        """By `add_optimizer_args` with a link, as Lightning's documentation has it."""

        class Linked(Plain):
            def __init__(self, second: dict | None = None):
                super().__init__()
                self.second = second

        class Mine(LitOptimCLI):
            def add_arguments_to_parser(self, parser):
                link = {"nested_key": "second", "link_to": "model.second"}
                parser.add_optimizer_args((torch.optim.Optimizer,), **link)
                parser.set_defaults({"optimizer": "lion"})

        argv = ["--second=lit_optim.Adam", "--second.lr=0.1"]
        cli = run(Mine, Linked, argv, run=False)
        assert cli.model.second["class_path"] == "lit_optim.Adam"
        cli.trainer.fit(cli.model, cli.datamodule)
        assert type(cli.trainer.optimizers[0]) is lit_optim.Lion

        class Automatic(LitOptimCLI):
            def add_arguments_to_parser(self, parser):
                parser.add_optimizer_args(torch.optim.Adam, "second")

        with pytest.raises(Exception, match="has --optimizer and --schedule already"):
            run(Automatic, argv=[], run=False)
        cli = run(Automatic, argv=["--second.lr=1"], run=False, auto_configure_optimizers=False)
        assert "optimizer" not in cli.config

    def test_resuming_longer(self, tmp_path):
        argv = ["--optimizer=adamw", "--schedule=linear_warmup", "--schedule.warmup=0"]
        cli = run(argv=["fit", *argv])
        cli.trainer.save_checkpoint(tmp_path / "ten.ckpt")
        argv = ["fit", *argv, f"--ckpt_path={tmp_path}/ten.ckpt", "--trainer.max_epochs=2"]
        assert "has 10 steps, this one 20" in fail(*argv)
        lrs = [lrs[0] for lrs in run(argv=[*argv, "--horizon=extend"]).model.lrs]
        expected = [1e-3 * (1 - (t + 1) / 20) for t in range(10, 20)]
        assert lrs == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--optimizer=adamv"], "unknown optimizer 'adamv'; did you mean adam or adamw or nadam?"),
        (["--optimizer=adamw", "--optimizer.lrr=1"], "AdamW takes no lrr; did you mean lr?"),
        (["--optimizer=adamw", "--optimizer.lr=-1"], "lr must be a number >= 0, got -1.0"),
        (
            ["--optimizer=adamw", "--optimizer.betas=3"],
            "betas must be 2 numbers in [0, 1), got '3'",
        ),
        (["--optimizer.lr=1"], "--optimizer.lr is of no optimizer: choose one before it, by"),
        (["--optimizer=ema"], "Ema wraps one; choose it by --wrapper ema"),
        (["--schedule=wsd"], "--schedule is for the --optimizer, which is not given"),
        (["--optimizer=adamw", "--schedule=wsdd"], "unknown schedule 'wsdd'; did you mean wsd"),
        (["--optimizer=adamw", "--schedule=wsd", "--schedule.warmup=x"], "warmup must be a whole"),
        (["--optimizer=adamw", "--schedule=wsd", "--schedule.warmpu=1"], "did you mean warmup?"),
        (["--optimizer=adamw", "--schedule=lit_optim.schedules.wsd"], "--schedule wsd is ours"),
        (["--optimizer=adamw", "--param_groups=nodecay"], "did you mean no_decay?"),
        (
            ["--optimizer=adamw", "--param_groups=layer_decay", "--param_groups.decay=3"],
            "--param_groups: decay must be a number in (0, 1], got 3.0",
        ),
        (["--optimizer=adamw", "--wrapper=em"], "unknown wrapper 'em'; did you mean ema?"),
        (["--optimizer=adamw", "--wrapper=ema", "--wrapper.decay=3"], "decay must be a number"),
        (["--optimizer=adamw", "--config={file}"], "--optimizer: AdamW takes no lrr; did you mean"),
        (["--config={names}"], "unknown optimizer 'adamv'; did you mean"),
    ],
)
def test_a_mistake_is_one_line(argv, error, tmp_path):
    files = {"file": "{class_path: adamw, init_args: {lrr: 3}}", "names": "adamv"}
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(f"optimizer: {text}\n")
    paths = {name: tmp_path / f"{name}.yaml" for name in files}
    line = fail(*[word.format(**paths) for word in argv], run=False)
    assert line.startswith("error: ")
    assert error in line


def test_the_schedule_by_lightnings_name():
    argv = ["fit", "--optimizer=adamw", "--lr_scheduler=wsd"]
    error = "error: unrecognized arguments: --lr_scheduler=wsd"
    assert fail(*argv) == f"{error}; it is --schedule here"
    without = fail("fit", "--lr_scheduler=wsd", auto_configure_optimizers=False)
    assert without == error


def test_mistakes_that_the_run_shows_are_one_line():
    assert fail("fit") == (
        "error: Plain has no configure_optimizers: choose its optimizer, such as --optimizer adamw"
    )
    line = fail("fit", "--optimizer=adamw", "--schedule=wsd", "--schedule.warmup=20")
    assert line.startswith("error: ")
    assert "20" in line
