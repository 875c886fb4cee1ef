"""The commands `lit-optim report` and `lit-optim best`, and what a sweep ends with."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys

import pytest
import yaml
from rich.console import Console

from lit_optim import cli
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.check import to_plain
from lit_optim.config.composing import compose_config
from lit_optim.config.places import use_conf_dir
from lit_optim.errors import UsageError
from lit_optim.reports.best import export_experiment
from lit_optim.results import showing
from lit_optim.results.reading import read_run
from lit_optim.results.showing import show_results, show_sweep
from lit_optim.runs.resume import run_fingerprint, write_fingerprint
from tests.results.directories import set_job, write_history, write_run


def a_sweep(where, **more):
    """Two optimizers, two lrs, two seeds."""
    for optimizer, base in (("adamw", 0.5), ("sgd", 0.7)):
        for lr in (0.01, 0.1):
            for seed in (0, 1):
                line = [f"optimizer={optimizer}", f"++optimizer.lr={lr}", f"++seed={seed}"]
                value = base + lr + 0.01 * seed
                run_dir = write_run(
                    where, f"{optimizer}-{lr}-{seed}", line, value,
                    choices={"optimizer": optimizer},
                    settings={"optimizer.lr": lr, "seed": seed, "data.seed": seed}, **more,
                )  # fmt: skip
                rows = [(k, k / 8, k, lr, value * k / 50) for k in (10, 30, 50)]
                write_history(run_dir, rows, ["val/acc"])
    return where


def run(capsys, *argv):
    """The exit code, and what was printed to stdout and stderr."""
    try:
        cli.main(list(map(str, argv)))
        code = 0
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_a_report_in_the_terminal(tmp_path, capsys):
    code, out, _ = run(capsys, "report", a_sweep(tmp_path / "sweep"))
    assert code == 0
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert [line[0] for line in lines if line[0] in ("adamw", "sgd")] == ["sgd", "adamw"]
    told = "the level that every run of sgd, the better of the 2 choices, reached"
    assert f"target val/acc ≥ 0.799: {told}" in out
    _, again, _ = run(capsys, "report", tmp_path, "--by", "optimizer.lr", "--target", "none")
    assert "steps" not in again
    assert [line.split()[0] for line in again.splitlines() if line[1:2] == "0"] == ["0.1", "0.01"]


def test_reports_in_files(tmp_path, capsys):
    sweep = a_sweep(tmp_path / "sweep")
    assert run(capsys, "report", sweep, "--to", tmp_path / "x.csv")[0] == 0
    with (tmp_path / "x.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
    assert run(capsys, "report", sweep, "--to", tmp_path / "x.html")[0] == 0
    assert "<html" in (tmp_path / "x.html").read_text("utf-8")
    code, out, _ = run(capsys, "report", sweep, "--to", tmp_path / "out")
    assert code == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "runs.csv", "curves.pdf", "sensitivity.png"} <= names
    assert f"{len(names)} files" in out


WRONG = {
    "report {}/missing": "no such directory: ",
    "report {}/empty": "empty: contains no run",
    "report {}/sweep {}/empty": "empty: contains no run",
    "report {}/sweep --to x.doc": "--to=x.doc: must end in one of .html .csv .png .svg .pdf",
    "report {}/sweep --to {}/no/x.html": "no such directory",
    "report {}/sweep --target soon": "argument --target: must be a number, auto or none, got soon",
    "report {}/sweep --target nan": "must be a number, auto or none, got nan",
    "report {}/sweep --watch 0": "argument --watch: must be seconds in [1, 86400], got 0",
    "report {}/sweep --watch 0.1": "argument --watch: must be seconds in [1, 86400], got 0.1",
    "report {}/sweep --metric val/ac": "--metric=val/ac: no run has it; did you mean val/acc?",
    "report {}/sweep --by optimiser": "--by=optimiser: no run has that key; did you mean optimizer",
    "report {}/sweep --by optimizer,": "must be keys separated by commas, got optimizer,",
    "report {}": "choose one with --metric, or see lit-optim results",
    "report": "the following arguments are required: directory",
    "best {}/empty": "empty: contains no run",
    "best {}/sweep --export best.txt": "--export=best.txt: must end in .yaml",
    "best {}/failed": "failed: no run has finished with a val/loss",
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_a_mistake_is_answered_in_a_line(tmp_path, line, capsys):
    a_sweep(tmp_path / "sweep")
    write_run(tmp_path, "other", ["model=gpt"], monitor="val/loss", mode="min")
    write_run(tmp_path, "failed", ["model=gpt"], code=1)
    (tmp_path / "empty").mkdir()
    code, out, err = run(capsys, *(word.replace("{}", str(tmp_path)) for word in line.split()))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert WRONG[line] in err


def test_other_metrics_are_compared_if_asked_for(tmp_path, capsys):
    write_run(tmp_path, "a", ["model=cnn"], 0.5, choices={"model": "cnn"})
    write_run(tmp_path, "b", ["model=gpt"], 1.5, choices={"model": "gpt"}, monitor="val/loss",
              mode="min", final={"val/loss": 1.5, "val/acc": 0.75})  # fmt: skip
    code, out, _ = run(capsys, "report", tmp_path, "--metric", "val/acc")
    assert code == 0
    lines = [line.split()[:2] for line in out.splitlines() if line[1:4] in ("cnn", "gpt")]
    assert lines == [["gpt", "0.7500"], ["cnn", "0.5000"]]
    code, out, _ = run(capsys, "results", tmp_path)  # a table each
    assert code == 0
    assert out.count("val/acc") == out.count("val/loss") == 1


def test_a_report_is_made_again_until_it_is_interrupted(tmp_path, monkeypatch, capsys):
    sweep, page = a_sweep(tmp_path / "sweep"), tmp_path / "x.csv"
    rounds = []

    def sleep(seconds):
        rounds.append(page.read_text())
        if len(rounds) == 1:
            write_run(sweep, "late", ["optimizer=lion"], 0.9, choices={"optimizer": "lion"})
        elif len(rounds) == 2:  # what is wrong for now is told
            write_run(sweep, "other", ["model=gpt"], monitor="val/loss", mode="min")
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(showing.time, "sleep", sleep)
    code, out, err = run(capsys, "report", sweep, "--to", page, "--watch", "5")
    assert (code, err) == (130, "")
    assert ["lion" in text for text in rounds] == [False, True, True]
    assert "choose one with --metric" in out


def test_a_sweep_that_has_just_started_is_waited_for(tmp_path, monkeypatch, capsys):
    (tmp_path / "sweep").mkdir()
    rounds = []

    def sleep(seconds):
        rounds.append(capsys.readouterr().out)
        if len(rounds) == 2:
            raise KeyboardInterrupt
        a_sweep(tmp_path / "sweep")

    monkeypatch.setattr(showing.time, "sleep", sleep)
    assert run(capsys, "report", tmp_path / "sweep", "--watch", "5") == (130, "", "")
    assert rounds[0] == "no run has begun yet\n"
    assert "sgd" in rounds[1]
    assert run(capsys, "report", tmp_path / "missing", "--watch", "5")[0] == 2


def test_runs_on_different_data_are_not_ranked_together(tmp_path):
    for data, values in (("digits", (0.9, 0.8)), ("mnist1d", (0.5,))):
        for optimizer, value in zip(("adamw", "sgd"), values, strict=False):
            choices = {"data": data, "optimizer": optimizer}
            name = f"{data}-{optimizer}"
            write_run(tmp_path / "runs", name, [f"data={data}"], value, choices=choices)
    refused = {"data": "mnist1d", "optimizer": "lion"}
    write_run(tmp_path / "runs", "refused", ["optimizer=lion"], choices=refused, code=2)

    def tables(where):
        show_results(where, Console(file=(out := io.StringIO()), width=120))
        return out.getvalue()

    text = tables(tmp_path / "runs")
    first, second = text.index("runs: data=digits"), text.index("runs: data=mnist1d")
    assert first < text.index("0.9") < text.index("0.8") < second < text.index("0.5")
    assert text.count("lion") == 0
    assert "refused (failed)" in text
    (tmp_path / "runs" / "sweep.json").write_text("{}")  # one sweep is one table
    text = tables(tmp_path / "runs")
    assert "data=digits" not in text
    assert text.index("0.9") < text.index("0.8") < text.index("0.5")


def test_the_end_of_a_sweep_refreshes_its_page_and_names_it(tmp_path, monkeypatch):
    sweep = a_sweep(tmp_path / "sweep")
    (sweep / "report.html").write_text("old")
    monkeypatch.chdir(tmp_path)
    out = io.StringIO()
    show_sweep(sweep, Console(file=out, width=200))
    assert "report: sweep/report.html" in out.getvalue()
    assert "<html" in (sweep / "report.html").read_text("utf-8")
    empty = io.StringIO()
    (tmp_path / "empty").mkdir()
    show_sweep(tmp_path / "empty", Console(file=empty))
    assert empty.getvalue() == ""


def test_reading_and_comparing_need_no_torch(tmp_path):
    a_sweep(tmp_path / "sweep")
    code = (
        "import sys; from lit_optim.cli import main; main(['report', sys.argv[1]]);"
        "main(['report', sys.argv[1], '--to', sys.argv[1] + '/r.html']);"
        "print({'torch', 'lightning', 'tensorboard', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "sweep")], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def a_real_run(where, lines, value=0.5):
    """A run whose fingerprint is that of its overrides."""
    run_dir = write_run(where, "best", lines, value)
    (run_dir / ".hydra").mkdir()
    (run_dir / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(lines))
    write_fingerprint(run_dir, to_plain(compose_config(lines)))
    return run_dir


@pytest.fixture
def own_choices(tmp_path):
    yield tmp_path / "mine"
    use_conf_dir(None)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "lines",
    [
        ["optimizer=sgd", "++optimizer.lr=1e-3", "++seed=7", "++trainer.max_steps=40"],
        ["model=mlp", "++model.width=20", "data=digits", "scheduler=wsd", "++scheduler.warmup=5%",
         "optimizer=adamw", "++optimizer.betas=[0.8,0.9]"],
        ["experiment=mnist1d_paper", "model=mlp", "++optimizer.weight_decay=0.1"],
        ["data=digits", "preset=none", "trainer=cpu", "++monitor=val/loss", "++mode=min"],
        ["++schedules={weight_decay: lr}", "++optimizer.weight_decay=0.1", "callbacks=health"],
        [],
    ],
    ids=lambda lines: lines[0] if lines else "defaults",
)  # fmt: skip
def test_the_exported_choice_is_the_same_run(tmp_path, lines, capsys, own_choices):
    run_dir = a_real_run(tmp_path / "sweep", lines)
    write_run(tmp_path / "sweep", "worse", ["optimizer=lion"], 0.25)
    export = own_choices / "experiment" / "found.yaml"
    code, out, err = run(capsys, "best", tmp_path / "sweep", "--export", export)
    assert (code, err) == (0, "")
    assert "experiment=found" in out
    prepare_command_line([f"--config-dir={own_choices}", "experiment=found"])
    again = run_fingerprint(to_plain(compose_config(["experiment=found"])))
    assert again == run_fingerprint(to_plain(compose_config(lines)))
    seed = compose_config(["experiment=found", "++seed=11"]).seed
    assert (seed, read_run(run_dir, []).value) == (11, 0.5)


@pytest.mark.parametrize("line", ["hydra/launcher=../evil", "logger.x.dir=/etc", "~model.width",
                                  "model.path=${oc.env:HOME}"])  # fmt: skip
def test_nothing_dangerous_is_exported(tmp_path, line):
    run_dir = a_real_run(tmp_path, ["optimizer=sgd"])
    (run_dir / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(["optimizer=sgd", line]))
    with pytest.raises(UsageError, match=re.escape(line)):
        export_experiment(read_run(run_dir, []), "x")


def test_an_exported_file_holds_what_the_run_was_started_with(tmp_path):
    run_dir = a_real_run(tmp_path, ["optimizer=sgd"])
    lines = ["optimizer=sgd", "allow=[evil]", "++trainer.max_steps=3"]  # trust is not handed on
    (run_dir / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(lines))
    text = export_experiment(read_run(run_dir, []), "x\ny: 1")
    assert text.splitlines()[:2] == ["# @package _global_", "# x\\ny: 1"]
    assert yaml.safe_load(text) == {
        "defaults": [{"override /optimizer": "sgd"}, "_self_"],
        "trainer": {"max_steps": 3},
    }


def test_the_best_run_is_the_best_of_the_best_setting(tmp_path, capsys):
    sweep = a_sweep(tmp_path / "sweep")
    lucky = write_run(sweep, "lucky", ["optimizer=lion"], 0.99, choices={"optimizer": "lion"})
    write_run(sweep, "unlucky", ["optimizer=lion", "++seed=1"], 0.01,
              settings={"seed": 1, "data.seed": 1}, choices={"optimizer": "lion"})  # fmt: skip
    (sweep / "sgd-0.1-1" / "checkpoints").mkdir()
    (sweep / "sgd-0.1-1" / "checkpoints" / "last.ckpt").touch()
    code, out, _ = run(capsys, "best", sweep)
    assert code == 0
    assert str(lucky) not in out
    found = dict(line.split(maxsplit=1) for line in out.splitlines() if "  " in line)
    assert found["run"] == str(sweep / "sgd-0.1-1")
    assert found["command"].endswith("optimizer=sgd optimizer.lr=0.1 seed=1")
    assert found["checkpoint"] == str(sweep / "sgd-0.1-1" / "checkpoints" / "last.ckpt")
    assert found["val/acc"].startswith("0.8100; over 2 seeds 0.8050")


def test_a_diverged_run_is_never_the_best(tmp_path, capsys):
    write_run(tmp_path, "a", ["optimizer=sgd"], 0.5)
    run_dir = write_run(tmp_path, "b", ["optimizer=sgd", "++seed=1"], 0.9, settings={"seed": 1})
    result = json.loads((run_dir / "result.json").read_text())
    (run_dir / "result.json").write_text(json.dumps(result | {"diverged": True}))
    set_job(run_dir, status="diverged", exit_code=1)
    assert str(tmp_path / "a") in run(capsys, "best", tmp_path)[1]
