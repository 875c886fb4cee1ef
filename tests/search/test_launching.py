"""Searches by launchers of others: they start workers, which may be lost."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from rich.console import Console

from lit_optim.errors import UsageError
from lit_optim.runs.layout import RESULT
from lit_optim.search import launching
from lit_optim.search.launching import WorkerLaunches, WorkerTask, find_other_launcher
from lit_optim.sweeps.signals import Signals
from lit_optim.sweeps.starters import JobStarter
from tests.clients.conftest import import_client
from tests.search.tiny_searches import RUN, SPACE, check_all_ran_once

SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


class Launcher:
    """Ends workers as the test says; each leaves a result, unless its code is 1.

    Args:
        sweep_dir: of the search.
        launches: the codes of the workers of each launch, or what it raises.
    """

    def __init__(self, sweep_dir, launches):
        self.sweep_dir, self.launches, self.lines, self.done = sweep_dir, launches, [], 0

    def instantiate_launcher(self, task_function, **given):
        self.task = task_function
        return self

    def launch(self, job_overrides, initial_job_idx):
        self.lines.append([list(one) for one in job_overrides])
        codes = self.launches.pop(0)
        returned = []
        for code in codes if isinstance(codes, list) else [None]:
            if code != 1 and not isinstance(codes, Exception):
                place = self.sweep_dir / f"trial={self.done:03d}" / "seed=0"
                place.mkdir(parents=True)
                (place / RESULT).write_text("{}")
                self.done += 1
            returned.append(JobReturn(_return_value=code, status=JobStatus.COMPLETED))
        if isinstance(codes, Exception):
            raise codes
        return returned


@pytest.fixture
def launches(tmp_path, monkeypatch, capsys):
    """Runs a search of two workers by a launcher that ends them as given."""

    def start(*ends, begin=lambda: None, line=(), **launcher):
        inner = Launcher(tmp_path, list(ends))
        monkeypatch.setattr(Plugins.instance(), "instantiate_launcher", inner.instantiate_launcher)
        settings = SimpleNamespace(timeout=None)
        run = SimpleNamespace(
            search=SimpleNamespace(settings=settings, line=line),
            config=OmegaConf.create({"hydra": {"launcher": {"_target_": "outer"}}}),
            sweep_dir=tmp_path,
            console=Console(stderr=True),
            begin=begin,
            signals=Signals(),
            starter=JobStarter(1, None),
        )
        inner.error = None
        try:
            WorkerLaunches(run, None, OmegaConf.create({"_target_": SLURM} | launcher), 2).run()
        except SystemExit as end:
            inner.error = end.code
        begins = f"2 workers; what they print: {tmp_path}/.workers\n"
        inner.said = capsys.readouterr().err.replace(begins, "")
        return inner

    return start


def test_a_search_is_over_when_one_worker_ends_well(launches):
    inner = launches([0, 1])
    assert inner.error is None
    assert inner.lines == [
        [
            [f"hydra.sweep.subdir='.workers/{number}'", "hydra.output_subdir=null"]
            for number in range(2)
        ]
    ]
    assert inner.said == ""


def test_workers_are_started_again_as_long_as_something_is_done(launches):
    inner = launches([-9, 1], [-9, -9], [0, 0])
    assert inner.error is None
    starts = [[line[0] for line in lines] for lines in inner.lines]
    assert starts == [
        [f"hydra.sweep.subdir='.workers/{number}'" for number in numbers]
        for numbers in ((0, 1), (2, 3), (4, 5))
    ]


def test_timed_runs_and_those_of_before_are_no_runs_that_are_done(tmp_path):
    places = {
        "trial=000/seed=0": True, "a/trial=000/seed=0": True, "a/final/seed=1": True,
        ".timing/a": False, ".timing/a/b": False, "a/.before/trial=000": False,
        "a/trial=000/.before/seed=0": False,
    }  # fmt: skip
    for place in places:
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / RESULT).touch()
    config = OmegaConf.create({"hydra": {"launcher": {}}})
    run = SimpleNamespace(sweep_dir=tmp_path, config=config)
    launches = WorkerLaunches(run, None, config.hydra.launcher, 1)
    assert launches._count_done() == sum(places.values())


def test_a_search_is_given_up_when_no_worker_gets_anywhere(launches, tmp_path):
    (tmp_path / ".workers/0").mkdir(parents=True)  # of an earlier start
    (tmp_path / ".workers/1").mkdir()
    (tmp_path / ".workers/1/log.txt").write_text("lit-optim: no such storage\n")
    inner = launches([-9, -9], [1, 1])
    assert inner.error == 1
    assert inner.said == "lit-optim: no worker has ended a run: none was started\n"


def test_the_last_line_of_a_worker_says_why(launches, tmp_path, monkeypatch):
    launch = Launcher.launch

    def write(self, job_overrides, first):
        (tmp_path / ".workers/0/log.txt").write_text("a line\nlit-optim: no such storage\n")
        return launch(self, job_overrides, first)

    monkeypatch.setattr(Launcher, "launch", write)
    inner = launches([1, 1])
    assert inner.error == 1
    assert inner.said == (
        f"lit-optim: no worker has ended a run: lit-optim: no such storage; "
        f"{tmp_path}/.workers/0/log.txt\n"
    )


def test_a_launcher_that_gives_up_is_tried_again_or_explained(launches):
    inner = launches([-9, -9], RuntimeError("a node was lost\nand more"))
    assert inner.error == 1
    assert inner.said == (
        "a worker was lost: a node was lost\n"
        "lit-optim: no worker has ended a run: a node was lost\n"
    )


def test_a_search_that_cannot_begin_starts_no_worker(launches):
    def begin():
        raise UsageError("study.db: is read-only")

    inner = launches(begin=begin)
    assert (inner.error, inner.lines) == (2, [])
    assert inner.said == "lit-optim: study.db: is read-only\n"


def test_a_task_of_slurm_is_no_rank_of_a_run(launches):
    inner = launches(tasks_per_node=8)
    assert (inner.error, inner.lines) == (2, [])
    assert inner.said.startswith("lit-optim: launcher.tasks_per_node must be 1 in a search: each")


def test_workers_are_told_what_a_directory_cannot_decide(launches, tmp_path):
    decided = ["optimizer=adamw,sgd", "++optimizer.lr=auto", "n_jobs=3", "++search.trials=4"]
    typed = ["++search.storage=journal:/x", "allow=[user_code]",
             "++callbacks.checkpoint.dirpath=/x", "branch_from=runs/x",
             "++model._target_=user_code.Module,user_code.Owner"]  # fmt: skip
    inner = launches([0, 0], line=[*decided, *typed])
    assert inner.task.words[:2] == ("worker", str(tmp_path))
    assert set(inner.task.words[2:]) >= {*typed[:4]}
    assert not {*decided} & {*inner.task.words}


def test_the_task_of_a_launcher_is_a_process_whose_output_is_kept(tmp_path, monkeypatch):
    """Wherever it runs, and whatever was imported there."""
    monkeypatch.setattr(
        HydraConfig, "get", lambda: OmegaConf.create({"runtime": {"output_dir": str(tmp_path)}})
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_PROCID", "1")  # a rank that is not the first prints nothing
    root = str(Path(launching.__file__).parents[2])
    assert WorkerTask(("worker", str(tmp_path)), root)(OmegaConf.create({})) == 2
    said = (tmp_path / "log.txt").read_text()
    assert said.startswith(f"lit-optim: {tmp_path}/search.json: No such file or directory;")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("launcher", "is_other"),
    [
        ({"_target_": "hydra_plugins.lit_optim_launcher.ProcessLauncher"}, False),
        ({"_target_": "hydra_plugins.lit_optim_launcher.OtherLauncher",
          "inner": {"_target_": SLURM}}, True),
        ({"_target_": SLURM}, True),
    ],
)  # fmt: skip
def test_which_launcher_starts_workers(launcher, is_other):
    found = find_other_launcher(OmegaConf.create({"hydra": {"launcher": launcher}}))
    assert (found is not None) == is_other
    assert found is None or found._target_ == SLURM


@pytest.mark.slow
@pytest.mark.usefixtures("user_code")
@pytest.mark.parametrize("name", ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow)])
def test_a_search_by_another_launcher(train, tmp_path, name):
    import_client(f"hydra_plugins.hydra_{name.partition('_')[0]}_launcher")
    line = ("-m", *RUN, SPACE, "search.trials=3", "n_jobs=2", "hydra.sweep.dir=search")
    storage = f"search.storage=journal:{tmp_path / 'study.log'}"
    done = train(*line, storage, f"hydra/launcher={name}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "report: search/report.html" in done.stdout
    check_all_ran_once(tmp_path / "search", 3, storage.partition("=")[2])
    pids = {json.loads(path.read_text())["pid"] for path in tmp_path.glob("search/*/*/job.json")}
    assert len(pids) == 3
    assert len([*tmp_path.glob("search/.workers/*/log.txt")]) == 2
    if name == "submitit_local":  # what is done stays done, also for our own launcher
        again = train("-m", "resume=search", storage, "allow=[user_code]")
        assert again.returncode == 0, again.stdout + again.stderr
        assert "3 of 3 trials already done" in again.stderr
