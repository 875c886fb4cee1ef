"""Sweeps by launchers of others: the same directories, records, table and exit codes as by ours."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode

from lit_optim import threads
from lit_optim.config.check import to_plain
from lit_optim.config.composing import compose_config
from lit_optim.config.places import conf_dir
from lit_optim.errors import UsageError
from lit_optim.runs.locks import take_lock
from lit_optim.runs.resume import find_own, write_fingerprint
from lit_optim.sweeps import other_launchers
from lit_optim.sweeps.other_launchers import JobBatches, jobs_at_a_time
from tests.clients.conftest import import_client
from tests.user_code import CUSTOM

LINE = ["data=digits", "model=linear", "optimizer=adamw,sgd", "++seed=0,1"]
JOBS = [["data=digits", "model=linear", f"optimizer={name}", f"++seed={seed}"]
        for name in ("adamw", "sgd") for seed in (0, 1)]  # fmt: skip


class Inner:
    """A launcher whose jobs write what a run writes, and end as the test says.

    Args:
        ends: how jobs end, by the name of the directory: a value, an exception, or `lost`.
    """

    def __init__(self, config, ends):
        self.config, self.ends, self.started = config, ends, []

    def launch(self, job_overrides, initial_job_idx):
        returned = [self.run(list(lines)) for lines in job_overrides]
        if any(one is None for one in returned):
            raise ValueError("a worker was lost\nwith all that it knew")
        return returned

    def run(self, lines):
        [subdir] = [line for line in lines if line.startswith("hydra.sweep.subdir=")]
        name = subdir.partition("=")[2].strip("'")
        self.started.append((name, [line for line in lines if line.startswith("resume.")]))
        overrides = [line for line in lines if not line.startswith(("hydra.", "resume."))]
        end, run_dir = self.ends.get(name, 0.5), Path(self.config.hydra.sweep.dir) / name
        if end == "absent":
            return None
        done = isinstance(end, float)
        record = {"overrides": overrides, "choices": {}, "pid": os.getpid(), "message": str(end),
                  "status": "running" if end == "lost" else "completed" if done else "failed",
                  "exit_code": None if end == "lost" else int(not done)}  # fmt: skip
        (run_dir / "job.json").write_text(json.dumps(record))
        (run_dir / "log.txt").write_text("a line")
        if end == "lost":
            return None
        if done:
            scores = {"val/loss": end}
            result = {"monitor": "val/loss", "mode": "min", "final": scores, "best": scores,
                      "test": {}, "seconds": 1.0, "value": end, "diverged": end == 9.0}  # fmt: skip
            (run_dir / "result.json").write_text(json.dumps(result))
        status = JobStatus.COMPLETED if done else JobStatus.FAILED
        return JobReturn(overrides=lines, status=status, _return_value=end)


@contextmanager
def started(sweep_dir, line=LINE, ends=None):
    """What stands around an inner launcher, and that launcher."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        lines = [*line, "hydra/launcher=basic", f"hydra.sweep.dir={sweep_dir}"]
        cfg = hydra.compose_config(
            "train", lines, run_mode=RunMode.MULTIRUN, with_log_configuration=False
        )
        inner = Inner(cfg, ends or {})
        yield JobBatches(inner, cfg, hydra.config_loader.load_sweep_config), inner


NAMES = [f"optimizer={name},seed={seed}" for name in ("adamw", "sgd") for seed in (0, 1)]


def test_jobs_are_named_ordered_and_resumed_as_by_our_own_launcher(tmp_path, capsys):
    ends = {NAMES[0]: 0.25, NAMES[1]: UsageError("no such\nfile"), NAMES[2]: 9.0}
    with started(tmp_path, ends=ends) as (batches, inner):
        returned = batches.launch([*JOBS, JOBS[0]], 0)
    assert [name for name, _ in inner.started] == NAMES
    assert [one.overrides for one in returned] == [*JOBS, JOBS[0]]
    assert [one.status == JobStatus.FAILED for one in returned] == [
        False,
        True,
        False,
        False,
        False,
    ]
    values = [one._return_value for one in returned]
    assert "no such" in str(values.pop(1))
    assert values == [0.25, 0.5, 0.5, 0.25]  # what diverged has the worst of the others
    assert json.loads((tmp_path / "sweep.json").read_text())["jobs"] == dict(
        zip(NAMES, JOBS, strict=True)
    )

    # another start: what is done is not started, what has a checkpoint goes on from there
    (tmp_path / NAMES[1] / "checkpoints").mkdir()
    (tmp_path / NAMES[1] / "checkpoints" / "last.ckpt").touch()
    with started(tmp_path) as (batches, inner):
        returned = batches.launch(JOBS, 0)
    assert inner.started == [(NAMES[1], [f"resume.from='{tmp_path / NAMES[1]}'"])]
    assert [one._return_value for one in returned] == [0.25, 0.5, 0.5, 0.5]
    assert "3 of 4 runs already done" in capsys.readouterr().err


def test_the_worst_of_earlier_batches_counts_as_by_our_own_launcher(tmp_path):
    with started(tmp_path, ends={NAMES[0]: 20.0, NAMES[1]: 30.0, NAMES[2]: 9.0}) as (batches, _):
        first = batches.launch(JOBS[:2], 0)
        second = batches.launch(JOBS[2:], 2)
    assert [one.return_value for one in first] == [20.0, 30.0]
    assert [one.return_value for one in second] == [30.0, 0.5]


def test_a_launcher_that_gives_up_loses_only_what_did_not_end(tmp_path):
    ends = {NAMES[1]: "lost", NAMES[2]: "absent", NAMES[3]: KeyError("x")}
    with started(tmp_path, ends=ends) as (batches, _):
        returned = batches.launch(JOBS, 0)
    failed = [one.status == JobStatus.FAILED for one in returned]
    assert failed == [False, True, True, True]
    records = [json.loads((tmp_path / name / "job.json").read_text()) for name in NAMES]
    # what says that it runs and holds no lock was killed
    assert [one["status"] for one in records] == ["completed", "running", "failed", "failed"]
    assert [one["exit_code"] for one in records] == [0, None, 1, 1]
    assert records[2]["message"] == "a worker was lost"


@pytest.mark.parametrize("message", ["done", "completed"])
def test_a_failure_is_one_whatever_it_says(tmp_path, message):
    with started(tmp_path, ends={NAMES[0]: RuntimeError(message)}) as (batches, _):
        [returned] = batches.launch(JOBS[:1], 0)
    assert returned.status == JobStatus.FAILED
    assert str(returned._return_value) == f"{NAMES[0]}: {message}; {tmp_path / NAMES[0]}/log.txt"


def test_a_job_that_outlived_its_launcher_is_waited_for(tmp_path, monkeypatch):
    with started(tmp_path) as (batches, inner):
        batches.launch(JOBS, 0)
        job = tmp_path / NAMES[0] / "job.json"
        record = json.loads(job.read_text())
        job.write_text(json.dumps(record | {"status": "running", "exit_code": None}))
        inner.started.clear()
        lock = take_lock(job.parent)

        def end(seconds):
            job.write_text(json.dumps(record))
            lock.close()

        monkeypatch.setattr(other_launchers, "time", SimpleNamespace(sleep=end))
        returned = batches.launch(JOBS, 0)
    assert inner.started == []
    assert [one._return_value for one in returned] == [0.5] * 4


OWN = ("-m", *CUSTOM, "model.width=5", "logger=none", "trainer.enable_progress_bar=false")


def ended(sweep_dir):
    """What the runs of a sweep left, by their names, without times and places."""
    found = {}
    for run_dir in (path.parent for path in sorted(sweep_dir.glob("*/job.json"))):
        job = json.loads((run_dir / "job.json").read_text())
        result = run_dir / "result.json"
        told = json.loads(result.read_text()) if result.exists() else {}
        kept = {key: value for key, value in told.items() if key not in ("seconds", "run_dir")}
        files = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()}
        overrides = sorted(job["overrides"])  # what is typed again comes last
        found[run_dir.name] = job["status"], job["message"], overrides, kept, files
    return found


@pytest.mark.slow  # a search by joblib is in the default sample
@pytest.mark.usefixtures("user_code")
def test_joblib_leaves_what_the_basic_launcher_leaves(train, tmp_path):
    """A run that is fine, one that diverges and one that fails, each in the same process."""
    import_client("hydra_plugins.hydra_joblib_launcher")
    left, tables = {}, {}
    for name in ("basic", "joblib"):
        more = (f"hydra/launcher={name}", f"hydra.sweep.dir={name}", "n_jobs=1")
        done = train(*OWN, "model.crash=no,diverge,raise", *more)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "model.crash=raise: failed with code 1" in done.stdout
        assert "\n  RuntimeError: my own mistake" in done.stdout
        assert "full disk" not in done.stdout
        assert (tmp_path / name / "report.html").exists()
        left[name] = ended(tmp_path / name)
        rows = [line.split() for line in done.stdout.splitlines()]
        crashes = ("no", "diverge", "raise")
        tables[name] = {row[0]: row[1] for row in rows if row and row[0] in crashes}
    states = {name: status for name, (status, *_) in left["joblib"].items()}
    assert states == {"model.crash=diverge": "diverged", "model.crash=no": "completed",
                      "model.crash=raise": "failed"}  # fmt: skip
    assert left["joblib"] == left["basic"]
    assert tables["joblib"] == tables["basic"]
    assert set(tables["joblib"]) == {"no", "diverge", "raise"}


@pytest.mark.slow
@pytest.mark.usefixtures("user_code")
def test_a_sweep_of_submitit_is_resumed_by_another_launcher(train, tmp_path):
    import_client("hydra_plugins.hydra_submitit_launcher")
    line = (*OWN, "model.crash=diverge,raise", "hydra.sweep.dir=sweep")
    done = train(*line, "hydra/launcher=submitit_local")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "model.crash=raise: failed with code 1" in done.stdout
    before = ended(tmp_path / "sweep")
    assert [status for status, *_ in before.values()] == ["diverged", "failed"]
    again = train("-m", "resume=sweep", "allow=[user_code]", "hydra/launcher=basic")
    assert again.returncode == 1, again.stdout + again.stderr
    assert "1 of 2 runs already done" in again.stderr
    assert "no run can be started" not in again.stderr
    assert ended(tmp_path / "sweep") == before


def test_a_job_that_is_submitted_again_goes_on_from_its_checkpoint(tmp_path):
    plain = to_plain(compose_config(["data=digits"]))
    assert find_own(plain, tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert find_own(plain, tmp_path) is None  # whose it is nobody knows
    write_fingerprint(tmp_path, plain)
    assert find_own(plain, tmp_path) == tmp_path
    assert find_own(plain | {"n_jobs": 3}, tmp_path) == tmp_path
    assert find_own(plain | {"seed": 1}, tmp_path) is None
    assert find_own(plain | {"resume": plain["resume"] | {"from": "x"}}, tmp_path) is None


def test_jobs_that_run_here_get_their_share_of_the_cpus(monkeypatch):
    for name in (*threads.VARIABLES, threads.SHARE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "read_cpus", lambda: threads.Cpus(9, 9, 0.0))
    before = dict(os.environ)
    for name, share in (("LocalLauncher", "2"), ("SlurmLauncher", None), ("RayLauncher", None)):
        with other_launchers.share_of_cpus({"_target_": f"somewhere.{name}"}, 4):
            assert os.environ.get("OMP_NUM_THREADS") == share
            assert os.environ.get(threads.SHARE) == share
        assert dict(os.environ) == before


def test_jobs_at_a_time():
    def at_a_time(name, **keys):
        return jobs_at_a_time({"_target_": f"somewhere.{name}", **keys}, 3)

    assert at_a_time("LocalLauncher") == 3
    assert at_a_time("JoblibLauncher", n_jobs=2) == 2
    assert at_a_time("JoblibLauncher", n_jobs=8) == 3
    assert at_a_time("JoblibLauncher", n_jobs=-1000) == 1
    assert at_a_time("SlurmLauncher", array_parallelism=2) is None
