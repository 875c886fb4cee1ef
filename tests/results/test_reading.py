"""Any directory of runs is read: of today, of earlier versions, running, cut off, damaged."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_optim.errors import UsageError
from lit_optim.results import events
from lit_optim.results.reading import find_runs, read_run, read_runs
from lit_optim.runs.status import Status
from lit_optim.system import lock_file
from tests.odd_files import KINDS, within_seconds
from tests.results.directories import set_job, write_events, write_history, write_run


def read(run_dir):
    notes = []
    return read_run(run_dir, notes), notes


LINE = ["optimizer=sgd", "++optimizer.lr=0.1", "++seed=3", "++n_jobs=2"]


def test_a_run_of_today(tmp_path):
    run_dir = write_run(
        tmp_path, "r", LINE, settings={"seed": 3, "optimizer.lr": 0.1}, steps=40, value=0.75,
        choices={"optimizer": "sgd"},
    )  # fmt: skip
    write_history(run_dir, [(20, 1.5, 20, 0.1, 0.5), (40, 3.0, 40, 0.0, 0.75)], ["val/acc"])
    set_job(run_dir, status="completed", message="")
    run, notes = read(run_dir)
    assert notes == []
    assert run.status is Status.COMPLETED
    assert run.overrides == {"optimizer": "sgd", "optimizer.lr": "0.1", "seed": "3"}
    assert run.choices["optimizer"] == "sgd"
    assert (run.monitor, run.mode, run.value, run.best) == ("val/acc", "max", 0.75, 0.75)
    assert (run.seed, run.steps, run.seconds, run.tests) == ("3", 40, 12.5, {"test/acc": 0.75})
    assert (list(run.history.step), list(run.history.lr)) == ([20, 40], [0.1, 0.0])
    assert list(run.history.metrics["val/acc"]) == [0.5, 0.75]
    assert run.ms_per_step == 75.0  # without validations
    assert run.command.endswith("optimizer=sgd optimizer.lr=0.1 seed=3")


@pytest.mark.parametrize("typed", ["train=false", "experiment=evaluation"])
def test_runs_that_only_test_are_not_compared_with_others(tmp_path, typed):
    """They say nothing of the optimizer that is the default while a checkpoint is tested."""
    tested = write_run(tmp_path, "test", [typed, "ckpt=x.ckpt"])
    (tested / "config.yaml").write_text("train: false  # only test\ntrainer:\n  max_steps: 4\n")
    assert [run.directory.name for run in read_runs([tmp_path]).runs] == ["test"]
    for name, text in (("trained", "train: true\nmodel:\n  train: false\n"), ("earlier", None)):
        run_dir = write_run(tmp_path, name, LINE)
        if text:
            (run_dir / "config.yaml").write_text(text)
    found = read_runs([tmp_path])
    assert {run.directory.name for run in found.runs} == {"trained", "earlier"}
    assert found.notes == ["left out: 1 run with train=false"]


STATUSES = [
    ({"exit_code": 0}, True, Status.COMPLETED),
    ({"exit_code": 0}, False, Status.FAILED),  # its result was lost
    ({"exit_code": 1}, False, Status.FAILED),
    ({"exit_code": -9}, False, Status.KILLED),
    ({"exit_code": 130}, False, Status.INTERRUPTED),
    ({"exit_code": 143}, False, Status.INTERRUPTED),
    ({"status": "diverged", "exit_code": 1}, True, Status.DIVERGED),
    ({"status": "pruned", "exit_code": 0}, True, Status.PRUNED),
    ({"status": "failed", "exit_code": 1}, False, Status.FAILED),
    ({"status": "running", "exit_code": None}, False, Status.KILLED),
    ({"status": "running", "exit_code": None}, True, Status.COMPLETED),
]


@pytest.mark.parametrize(("record", "has_result", "status"), STATUSES)
def test_how_a_run_ended(tmp_path, record, has_result, status):
    run_dir = write_run(tmp_path, "r", LINE)
    set_job(run_dir, **record)
    if not has_result:
        (run_dir / "result.json").unlink()
    assert read(run_dir)[0].status is status


def test_whoever_holds_the_lock_is_running(tmp_path):
    run_dir = write_run(tmp_path, "r", LINE, code=1)
    set_job(run_dir, status="running", exit_code=None)
    hold = (
        "import sys; from pathlib import Path; from lit_optim.system import lock_file;"
        "file = open(sys.argv[1], 'w'); assert lock_file(file); print('held', flush=True);"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(run_dir / ".lock")]  # a lock is of a process
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        assert read(run_dir)[0].status is Status.RUNNING
        with (run_dir / ".lock").open("r+") as file:
            assert not lock_file(file)  # it was not taken from it
        other.stdin.close()
    assert read(run_dir)[0].status is Status.KILLED


def test_a_run_that_ends_while_it_is_read(tmp_path, monkeypatch):
    from lit_optim.results import reading

    run_dir = write_run(tmp_path, "r", LINE)
    result = (run_dir / "result.json").read_text()
    (run_dir / "result.json").unlink()
    set_job(run_dir, status="running", exit_code=None)

    def ends(path):
        (run_dir / "result.json").write_text(result)
        set_job(run_dir, status="completed", exit_code=0)
        return False

    monkeypatch.setattr(reading, "is_held", ends)
    run, _ = read(run_dir)
    assert (run.status, run.value) == (Status.COMPLETED, 0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_earlier_run_that_ended_without_a_finite_value_diverged(tmp_path, value):
    run_dir = write_run(tmp_path, "r", LINE, value, monitor="val/loss", mode="min")
    write_history(run_dir, [(1, 1, 1, 0.1, 2.5), (2, 2, 2, 0.1, 2.25), (3, 3, 3, 0.1, value)])
    run, _ = read(run_dir)
    assert (run.status, run.value) == (Status.DIVERGED, 2.5)


def test_the_choices_of_an_earlier_run_are_those_that_hydra_kept(tmp_path):
    run_dir = write_run(tmp_path, "r", LINE)
    for name in ("job.json", "result.json"):
        (run_dir / name).unlink()
    assert read(run_dir)[0].choices == {}
    (run_dir / ".hydra").mkdir()
    file = run_dir / ".hydra" / "hydra.yaml"
    file.write_text("hydra: {runtime: {choices: {optimizer: sgd, hydra/help: x, scheduler: null}}}")
    assert read(run_dir)[0].choices == {"optimizer": "sgd"}
    assert read(run_dir)[0].status is Status.KILLED
    for text in ("", "3", "hydra: 3", "hydra: {runtime: {choices: [1]}}", "{"):
        file.write_text(text)
        assert read(run_dir)[0].choices == {}


def test_a_diverged_run_says_its_worst_value_itself(tmp_path):
    run_dir = write_run(tmp_path, "r", LINE, math.nan, diverged=True)
    result = json.loads((run_dir / "result.json").read_text())
    (run_dir / "result.json").write_text(json.dumps(result | {"value": 2.75}))
    assert (read(run_dir)[0].status, read(run_dir)[0].value) == (Status.DIVERGED, 2.75)


def test_a_running_run_tells_its_values_so_far(tmp_path):
    run_dir = write_run(tmp_path, "r", LINE, code=1)
    set_job(run_dir, status="running", exit_code=None)
    (run_dir / "config.yaml").write_text("seed: 1\nmonitor: val/acc\nmode: max # why\nx:\n  y: 1\n")
    write_history(run_dir, [(5, 1.0, 5, 0.1, 0.5, 2.0), (10, 2.0, 10, 0.1, 0.25, 1.0)],
                  ["val/acc", "val/loss"])  # fmt: skip
    run, _ = read(run_dir)
    assert (run.monitor, run.mode, run.value, run.best) == ("val/acc", "max", 0.25, 0.5)
    assert (run.steps, run.seconds, run.finals["val/loss"]) == (10, 2.0, 1.0)


def test_a_line_that_is_being_written_is_left_for_the_next_reading(tmp_path):
    run_dir = write_run(tmp_path, "r", LINE)
    write_history(run_dir, [(5, 1.0, 5, 0.1, 0.5)])
    path = run_dir / "history.csv"
    whole = path.read_text()
    for cut in range(len(whole) + 1):
        path.write_text(whole[:cut])
        run, notes = read(run_dir)
        assert notes == []
        assert list(run.history.step) == ([5] if cut == len(whole) else [])


@pytest.mark.parametrize(
    "line", ["x,1,1,1,1", "1.5,1,1,1,1", "1,1,1,1", "1,1,1,1,1,1", "", "-1,1,1,1,1", "1e30,1,1,1,1",
             "\x00,1,1,1,1", '"1,1,1,1,1', "inf,1,1,1,1", "nan,1,1,1,1"],
)  # fmt: skip
def test_a_damaged_line_of_a_history_is_told(tmp_path, line):
    run_dir = write_run(tmp_path, "r", LINE)
    write_history(run_dir, [(5, 1.0, 5, 0.1, 0.5)])
    with (run_dir / "history.csv").open("a") as file:
        file.write(f"{line}\n7,1,1,1,1\n")
    run, notes = read(run_dir)
    assert len(notes) == 1
    assert "history.csv" in notes[0]
    assert list(run.history.step) in ([5], [])  # a quotation spoils the whole file
    assert run.value == 0.5


CURVES = {
    "val/loss": {9: 2.5, 19: 1.5},
    "val/acc": {9: 0.25, 19: 0.5},
    "train/loss": {k: 3.0 - 0.125 * k for k in range(20)},
    "lr/decay": {k: 0.5 ** (k // 10) for k in range(20)},
}


def test_an_earlier_run_is_read_from_its_event_files(tmp_path):
    run_dir = write_run(tmp_path, "r", LINE, 0.5, final={"val/acc": 0.5, "val/loss": 1.5})
    write_events(run_dir, CURVES)
    run, notes = read(run_dir)
    assert notes == []
    theirs = EventAccumulator(str(run_dir)).Reload()
    for name in ("val/loss", "val/acc"):
        points = [(event.step + 1, event.value) for event in theirs.Scalars(name)]
        assert list(zip(run.history.step, run.history.metrics[name], strict=True)) == points
    assert list(run.history.metrics) == ["val/loss", "val/acc"]
    assert list(run.history.lr) == [1.0, 0.5]
    assert math.isnan(run.history.seconds[0])


def test_a_resumed_run_replaces_what_it_repeats(tmp_path):
    run_dir = write_run(tmp_path, "r", LINE)
    write_events(run_dir, {"val/acc": {9: 0.1, 19: 0.2, 29: 0.3}}, ".first")
    first = next(run_dir.glob("events*"))
    first.rename(first.with_name(first.name.replace(first.name.split(".")[3], "1000")))
    write_events(run_dir, {"val/acc": {19: 0.5, 24: 0.75}}, ".second")
    history = read(run_dir)[0].history
    assert list(history.step) == [10, 20, 25]
    assert [round(value, 3) for value in history.metrics["val/acc"]] == [0.1, 0.5, 0.75]


def test_a_directory_with_event_files_alone_is_a_run(tmp_path):
    (tmp_path / "lightning_logs" / "version_0").mkdir(parents=True)
    write_events(tmp_path / "lightning_logs" / "version_0", CURVES)
    [run] = read_runs([tmp_path]).runs
    assert (run.status, run.monitor, run.finals) == (
        Status.UNKNOWN, "", {"val/loss": 1.5, "val/acc": 0.5},
    )  # fmt: skip
    run_dir = write_run(tmp_path, "ours", LINE)
    (run_dir / "tensorboard").mkdir()
    write_events(run_dir / "tensorboard", CURVES)  # not a run of its own
    assert len(find_runs(tmp_path)) == 2


def test_a_damaged_event_file_is_told_and_the_others_go_on(tmp_path):
    for name in ("a", "b"):
        write_events(write_run(tmp_path, name, LINE, final={"val/acc": 0.5}), CURVES)
    path = next((tmp_path / "a").glob("events*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    found = read_runs([tmp_path])
    [note] = found.notes
    assert str(path) in note
    assert [len(run.history.step) for run in found.runs][1] == 2
    path.write_bytes(bytes(content[: len(content) // 4]))  # cut off, as while it is written
    assert read_runs([tmp_path]).notes == []


def test_a_damaged_history_tells_what_is_read_instead(tmp_path):
    run_dir = write_run(tmp_path, "a", LINE, final={"val/acc": 0.5})
    (run_dir / "history.csv").write_text("no,history\n1,2\n")
    [note] = read_runs([tmp_path]).notes
    assert note.endswith("then metrics")
    write_events(run_dir, CURVES)
    found = read_runs([tmp_path])
    [note] = found.notes
    assert note.endswith("then metrics; its event files are used")
    assert len(found.runs[0].history.step) == 2


FILES = ("job.json", "result.json", "asked.json", "history.csv", "config.yaml", ".lock",
         ".hydra/overrides.yaml", "events.out.tfevents.1.x.1.0")  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_file_stops_the_reading(tmp_path, name, kind):
    for job in ("good", "other"):
        run_dir = write_run(tmp_path, job, LINE)
        write_history(run_dir, [(5, 1.0, 5, 0.1, 0.5)], ["val/acc"])
        (run_dir / ".hydra").mkdir()
    path = tmp_path / "other" / name
    path.unlink(missing_ok=True)
    if "tfevents" in name:
        (tmp_path / "other" / "history.csv").unlink()
    if name == ".lock":
        set_job(tmp_path / "other", status="running")
    KINDS[kind](path)

    def reads():
        found = read_runs([tmp_path])
        [good] = [run for run in found.runs if run.directory.name == "good"]
        assert good.value == 0.5
        assert all("good" not in note for note in found.notes)

    assert within_seconds(reads) is None


def test_directories_that_contain_each_other_are_read_once(tmp_path):
    write_run(tmp_path / "a", "r", LINE)
    write_run(tmp_path / "b", "r", LINE)
    assert len(read_runs([tmp_path, tmp_path / "a", tmp_path / "a" / ".." / "b"]).runs) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: contains no run"):
        read_runs([tmp_path, tmp_path / "empty"])
    with pytest.raises(UsageError, match=r"no such directory: .*nothing"):
        read_runs([tmp_path / "nothing"])


COMMANDS = {
    "optimizer=sgd": "optimizer=sgd",
    "++optimizer.betas=[0.9,0.99]": "'optimizer.betas=[0.9,0.99]'",
    "+model.width=20": "model.width=20",
    "scheduler.warmup=5%": "scheduler.warmup=5%",
    "n_jobs=2": "",
    "++hydra.launcher.n_jobs=2": "",
}
#: Nobody reads a line again that a button has copied.
NOT_TO_COPY = [
    "allow=[evil]", "++allow=[evil]", "optimizer._target_=evil.Optimizer", "hydra/launcher=evil",
    "logger.csv.save_dir=/etc", "callbacks.x=1", "seed=$(rm -r x)", "seed='1'; rm",
    "data.path=../x",
    "seed=${oc.env:HOME}", "resume.from=x", "~trainer.max_steps", "seed=1\nrm", "seed=1\x1b[2J",
    "weights=evil.ckpt", "-m", "hydra.run.dir=/etc", "ckpt=x",
]  # fmt: skip


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_of_a_run_is_typed_as_a_person_would(tmp_path, line):
    run_dir = write_run(tmp_path, "r", ["model=mlp", line])
    assert read(run_dir)[0].command.partition(" model=mlp")[2].strip() == COMMANDS[line]


@pytest.mark.parametrize("line", NOT_TO_COPY)
def test_a_command_that_says_more_than_plain_values_is_left_to_rerun(tmp_path, line):
    command = read(write_run(tmp_path, "r", ["model=mlp", line]))[0].command
    if line != "hydra.run.dir=/etc":  # is of the start, and not repeated
        assert command.endswith(f"rerun {tmp_path / 'r'}")
    assert line not in command


def test_histories_are_those_of_the_csv_module(tmp_path):
    run_dir = write_run(tmp_path, "r", LINE)
    rows = [(k, k / 3, k, 0.1 / (k + 1), math.nan if k == 2 else 1 / (k + 1)) for k in range(50)]
    write_history(run_dir, rows)
    history = read(run_dir)[0].history
    with (run_dir / "history.csv").open(newline="") as file:
        expected = [float(row["val/loss"]) for row in csv.DictReader(file)]
    assert json.dumps(list(history.metrics["val/loss"])) == json.dumps(expected)


def test_many_metrics_at_many_steps_take_no_more_memory_than_one(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "MAX_NUMBERS", 100)
    write_events(tmp_path, {f"val/{k}": {k: float(k)} for k in range(30)})
    run, [note] = read(tmp_path)
    assert sorted(run.history.metrics) == ["val/0", "val/1", "val/2"]
    assert len(run.history.step) == 3
    assert note.endswith("has 30 metrics; the first 3 are used")
