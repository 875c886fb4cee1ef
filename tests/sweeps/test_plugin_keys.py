"""What a command line says to launchers and sweepers of others: handed over, or one line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore

from lit_optim.command_line import plugins
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config import hydra_keys
from lit_optim.errors import UsageError
from tests.clients.conftest import import_client

LINE = ["-m", "data=digits", "model=linear", "seed=0,1"]
JOBLIB, LOCAL, SLURM = (
    f"hydra/launcher={name}" for name in ("joblib", "submitit_local", "submitit_slurm")
)
SEARCH, MAXIMIZE = "hydra/sweeper=of_a_test", "sweeper.direction=maximize"


@dataclass
class Sampler:
    _target_: str = "somewhere.Sampler"
    seed: int | None = None


@dataclass
class Sweeper:
    """As Optuna's, which wants an older Optuna than everybody has."""

    _target_: str = "hydra_plugins.somewhere.Sweeper"
    n_trials: int = 20
    n_jobs: int = 2
    direction: str = "minimize"
    sampler: Sampler = field(default_factory=Sampler)
    params: dict[str, str] | None = None
    more: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import_client("hydra_plugins.hydra_joblib_launcher")
    import_client("hydra_plugins.hydra_submitit_launcher")
    hydra_keys._installed_choices.cache_clear()  # of a test before
    ConfigStore.instance().store(group="hydra/sweeper", name="of_a_test", node=Sweeper)


MORE = ("additional_parameters.mail-user=me", "additional_parameters={a: 1}", "setup=[x, y]")


def handed_over(*lines):
    """What Hydra gets beside the lines that are in all tests."""
    argv = prepare_command_line([*LINE, *lines]).argv
    return [one.lstrip("+") for one in argv if one.startswith(("hydra.launcher", "hydra.sweeper",
                                                               "++hydra."))]  # fmt: skip


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([JOBLIB, "++launcher.timeout=9"], ["hydra.launcher.timeout=9"]),
        ([JOBLIB, "n_jobs=3", "launcher.n_jobs=2"], ["hydra.launcher.n_jobs=2"]),
        ([SLURM, "n_jobs=3"], ["hydra.launcher.array_parallelism=3"]),
        (
            [SLURM, *(f"hydra.launcher.{key}" for key in MORE)],
            [f"hydra.launcher.{key}" for key in MORE],
        ),
        (["hydra/launcher=basic", "n_jobs=1"], []),
        (
            [SLURM, "trainer=ddp_cpu", "launcher.tasks_per_node=2"],
            ["hydra.launcher.tasks_per_node=2"],
        ),
        (["trainer=ddp_cpu"], []),
        (["hydra.sweeper.max_batch_size=1"], ["hydra.sweeper.max_batch_size=1"]),
        (
            [SEARCH, "hydra.sweeper.sampler.seed=1", "optimizer.lr=tag(log,interval(1e-4,0.1))"],
            ["hydra.sweeper.sampler.seed=1", f"hydra.{MAXIMIZE}"],
        ),
        (
            [SEARCH, "hydra.sweeper.more.deep.key=1", "mode=min"],
            ["hydra.sweeper.more.deep.key=1"],
        ),
        (
            [SEARCH, "n_jobs=3", "monitor=val/acc", JOBLIB],
            [f"hydra.{key}" for key in ("launcher.n_jobs=3", "sweeper.n_jobs=3", MAXIMIZE)],
        ),
        ([SEARCH], [f"hydra.{MAXIMIZE}"]),  # as the model declares
        ([SEARCH, "monitor=val/loss"], []),
        ([SEARCH, "monitor=test/odd", "mode=min"], []),
        (
            [SEARCH, "mode=max", "hydra.sweeper.direction=minimize"],
            ["hydra.sweeper.direction=minimize"],
        ),
        (
            [SEARCH, "data.batch_size=range(1,200)", "optimizer.lr=range(1,200)", "mode=min"],
            [],
        ),
    ],
    ids=str,
)  # fmt: skip
def test_plugins_get_their_keys(lines, expected, monkeypatch):
    monkeypatch.setattr(plugins.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert handed_over(*lines) == expected


MISTAKES = [
    (["launcher.n_job=1"], "hydra/launcher=processes has no key hydra.launcher.n_job; did you"),
    ([JOBLIB, "hydra.launcher.n_jobs.x=1"], "hydra.launcher.n_jobs of hydra/launcher=joblib has"),
    ([JOBLIB, "hydra.launcher.n_jobs=x"], "n_jobs=x: Value 'x' of type 'str' could not be"),
    ([LOCAL, "hydra.launcher.timeout=1"], "timeout; did you mean hydra.launcher.timeout_min?"),
    ([LOCAL, "n_jobs=2"], "n_jobs=2 does nothing with hydra/launcher=submitit_local, which starts"),
    (["hydra/launcher=basic", "n_jobs=2"], "hydra/launcher=basic, which runs one job at a time"),
    ([LOCAL, "trainer=ddp_cpu"], "trainer.devices=2 with hydra/launcher=submitit_local, whose"),
    ([JOBLIB, "trainer=cpu,ddp"], "trainer.devices=auto with hydra/launcher=joblib, whose jobs"),
    (["hydra/launcher=ray"], "hydra/launcher=ray is not installed: python -m pip install hydra-r"),
    (["hydra/sweeper=ax"], "hydra/sweeper=ax is not installed: python -m pip install hydra-ax-sw"),
    (["hydra/launcher=joblip"], "unknown hydra/launcher 'joblip'; did you mean joblib?"),
    (["hydra/sweeper/sampler=x"], "unknown hydra/sweeper/sampler 'x'; no plugin has such a group"),
    (["hydra.sweeper.n_trials=3"], "hydra/sweeper=basic has no key hydra.sweeper.n_trials; it has"),
    (["hydra.sweeper.params.x=1"], "hydra.sweeper.params is null in hydra/sweeper=basic: its keys"),
    (["hydra.sweeper.params={x: 1}"], "hydra.sweeper.params is null in hydra/sweeper=basic: its"),
    ([SEARCH, "monitor=val/odd"], "must know whether a higher val/odd is better; set mode=max or"),
    ([SEARCH, "hydra.sweeper.sampler.sed=1"], "sed; did you mean hydra.sweeper.sampler.seed?"),
    ([SEARCH, "hydra.sweeper.sampler._target_=os.abort"], "cannot be set on the command line"),
    ([SEARCH, "hydra.sweeper.more={a: {_target_: os.abort}}"], "cannot be set on the command line"),
    ([SEARCH, "~hydra.sweeper.sampler.seed"], "cannot be set on the command line"),
    ([SEARCH, "hydra.sweeper.n_trials=1,2"], "applies to all runs, so it cannot be swept"),
    ([SEARCH, "optimizer.lr=interval(-1,1)"], "optimizer.lr must be a number > 0, got -1"),
    ([SEARCH, "optimizer=interval(0,1)"], "is only for a search; list its values"),
    (["optimizer.lr=interval(0.1,1)"], "or list its values, separated by commas"),
    (["optimizer.lr=tag(log,choice(0.1,1))"], "is only for a search; add search.trials=12"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "message"), MISTAKES, ids=str)
def test_a_mistake_is_one_line(lines, message):
    with pytest.raises(UsageError) as error:
        prepare_command_line([*LINE, *lines])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_slurm_wants_its_programs(monkeypatch):
    monkeypatch.setattr(plugins.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="submitit_slurm finds no SLURM here: there is no srun"):
        prepare_command_line([*LINE, SLURM])


def test_what_is_of_a_sweep_does_nothing_in_a_run():
    with pytest.raises(UsageError, match="does nothing without -m"):
        prepare_command_line(["hydra.sweeper.max_batch_size=2"])
