"""`hydra/launcher=processes` in other people's apps: they get what the basic launcher gives."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from hydra import initialize
from hydra._internal.callbacks import Callbacks
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from lit_optim.errors import UsageError
from lit_optim.sweeps import handing_over
from lit_optim.sweeps.options import read_options
from tests.clients import hydra_tasks
from tests.clients.conftest import import_client

#: The app has an `n_jobs` of its own, which means something else.
APP = {"x": 1, "n_jobs": -1, "name": "${hydra:job.name}", "where": "${hydra:runtime.output_dir}"}


@contextmanager
def started(launcher, sweep_dir, *overrides, task=hydra_tasks.task):
    """A launcher as a sweeper has it, in an app."""
    ConfigStore.instance().store("app_of_others", APP)
    with initialize(config_path=None, version_base="1.3", job_name="theirs"):
        app = GlobalHydra.instance().hydra
        cfg = app.compose_config(
            "app_of_others",
            [f"hydra/launcher={launcher}", f"hydra.sweep.dir={sweep_dir}", *overrides],
            run_mode=RunMode.MULTIRUN,
            from_shell=False,
            with_log_configuration=False,
        )
        context = HydraContext(config_loader=app.config_loader, callbacks=Callbacks(cfg))
        yield Plugins.instance().instantiate_launcher(context, task, cfg)


@pytest.fixture(autouse=True)
def _same_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def described(job, launcher):
    """All fields of what a job returned, without the name of the launcher."""
    hydra_cfg = OmegaConf.to_yaml(job.hydra_cfg).replace(f"launcher: {launcher}", "")
    kept = [line for line in hydra_cfg.splitlines() if "launcher" not in line and line.strip()]
    options = {f"{name}: null" for name in read_options()}
    kept = [line for line in kept if line.strip() not in options]
    value = job._return_value
    value = repr(value) if isinstance(value, Exception) else value
    cfg = OmegaConf.to_container(job.cfg, resolve=False)
    return kept, value, job.status, job.overrides, cfg, job.working_dir, job.task_name


def test_jobs_return_what_the_basic_launcher_returns(tmp_path):
    found, wrote = {}, {}
    for launcher in ("basic", "processes"):
        with started(launcher, tmp_path / "sweep") as jobs:
            returned = jobs.launch([["x=1"], ["x=error"], ["+y=[1,2]", "x=5.5"]], 4)
            found[launcher] = [described(job, launcher) for job in returned]
            with pytest.raises(ValueError, match="of the job") as error:
                _ = returned[1].return_value
        wrote[launcher] = {
            str(path.relative_to(tmp_path))
            for path in tmp_path.rglob("*")
            if path.is_file() and path.name != "theirs.log"
        }
        pids = {int(path.read_text()) for path in tmp_path.rglob("pid")}
        assert (os.getpid() in pids) == (launcher == "basic")
        assert len(pids) == (1 if launcher == "basic" else 2)
    assert "in task" in str(error.value.__cause__)  # where it happened in the job
    assert found["processes"] == found["basic"]
    assert wrote["processes"] == wrote["basic"]
    assert found["processes"][2][1] == {"job": 6, "value": 3.5**2}


def test_a_sweeper_that_searches_gets_numbers(tmp_path):
    low, high = 0.0, 5.0
    with started("processes", tmp_path, "hydra.launcher.n_jobs=2") as jobs:
        for step in range(2):
            points = [low + (high - low) / 3, high - (high - low) / 3]
            ended = jobs.launch([[f"x={x}"] for x in points], 2 * step)
            left, right = (job.return_value["value"] for job in ended)
            low, high = (low, points[1]) if left < right else (points[0], high)
    assert low < 2 < high
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]


def test_odd_ends_of_jobs(tmp_path, caplog, capfd):
    with started("processes", tmp_path, "hydra.launcher.n_jobs=4") as jobs:
        names = ["crash", "odd", "lock", "3"]
        crash, odd, lock, fine = jobs.launch([[f"x={name}"] for name in names], 0)
    with pytest.raises(RuntimeError, match="job 0 exited with code 7"):
        _ = crash.return_value
    assert (crash.status, crash.overrides) == (JobStatus.FAILED, ["x=crash"])
    with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
        _ = odd.return_value
    assert lock.return_value is None
    assert "returned a lock, which cannot be handed to the sweeper" in capfd.readouterr().out
    assert fine.return_value["value"] == 1


def test_a_closure_is_a_task_too(tmp_path, monkeypatch):
    added = 10.0
    with started("processes", tmp_path, task=lambda cfg: cfg.x + added) as jobs:
        import_client("cloudpickle")
        assert jobs.launch([["x=3"]], 0)[0].return_value == 13.0
        monkeypatch.setattr(handing_over, "CLOUDPICKLE", ())
        with pytest.raises(UsageError, match="pip install cloudpickle") as error:
            jobs.launch([["x=3"]], 0)
    assert "\n" not in str(error.value)


def test_a_wrong_option_is_one_line(tmp_path):
    with (
        pytest.raises(UsageError, match=r"^hydra.launcher.n_jobs must be a whole number > 0"),
        started("processes", tmp_path, "hydra.launcher.n_jobs=0"),
    ):
        pass


def test_a_script_runs_with_it_or_is_told_what_it_lacks(tmp_path):
    """Hydra-zen's main program, whose task has no name of its own, with and without the guard."""
    import_client("hydra_zen")
    script = tmp_path / "app.py"
    guard = 'if __name__ == "__main__":\n    '
    text = (
        "from hydra_zen import store, zen\n"
        "def fit(x: int):\n    print('x is', x)\n"
        "store(fit, name='config', x=1, populate_full_signature=True)\n"
        "store.add_to_hydra_store()\n"
        f"{guard}zen(fit).hydra_main(config_name='config', version_base='1.3', config_path=None)\n"
    )
    line = [sys.executable, str(script), "-m", "x=1", "hydra/launcher=processes"]
    done = {}
    for name in ("guarded", "bare"):
        script.write_text(text if name == "guarded" else text.replace(guard, ""))
        done[name] = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done["guarded"].returncode == 0, done["guarded"].stderr
    assert "x is 1" in done["guarded"].stdout.splitlines()
    assert done["bare"].returncode != 0
    assert 'call its main function under `if __name__ == "__main__":`' in done["bare"].stderr


def test_the_plugin_costs_other_apps_nothing():
    code = (
        "import sys, hydra.core.plugins; before = set(sys.modules)\n"
        "import hydra_plugins.lit_optim_launcher\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    heavy = {"torch", "lightning", "rich", "numpy", "multiprocessing", "sklearn"}
    assert done.returncode == 0, done.stderr
    assert "lit_optim" in done.stdout.split()
    assert not heavy & set(done.stdout.split())
