"""Reports of tournaments: final runs are compared on each task, and tasks by a profile."""

from __future__ import annotations

import csv
import json
import math
import shutil
from statistics import fmean

import pytest
from rich.console import Console

from lit_optim.errors import UsageError
from lit_optim.reports.best import show_best
from lit_optim.results import figure_files, figures, page
from lit_optim.results.cells import choice_table, run_table
from lit_optim.results.data import Report, Tournament
from lit_optim.results.overview import standings, task_files
from lit_optim.results.reading import read_runs
from lit_optim.results.showing import make_report, show_results, show_sweep, write
from lit_optim.runs.layout import TOURNAMENT
from tests.results.directories import BROKEN
from tests.results.page_texts import texts
from tests.results.searches import SKILLS, write_contest, write_place, write_tournament


@pytest.fixture(scope="module")
def contest(tmp_path_factory):
    return write_contest(
        tmp_path_factory.mktemp("runs") / "contest",
        notes={"lion": ["constant_warmup: it wants a steady lr"], "sgd": ["half", "edge"]},
        left_out={"lbfgs": "evaluates the loss several times an update"},
    )


@pytest.fixture(scope="module")
def digits(contest, tmp_path_factory):
    """A tournament of one task."""
    root = tmp_path_factory.mktemp("runs") / "digits"
    return write_contest(root, ["digits"], notes={"lion": ["note"], "adamw": ["other", "note"]})


def test_final_runs_are_what_is_ranked(digits):
    report = make_report([digits])
    assert isinstance(report, Report)
    assert [row.values["optimizer"] for row in report.rows] == ["adamw", "lion", "sgd"]
    assert [(row.rank, row.is_tied) for row in report.rows] == [(1, True), (1, True), (3, False)]
    for row in report.rows:
        loss, lr, _ = SKILLS[row.values["optimizer"]]
        assert row.best.value.mean == pytest.approx(loss)
        assert row.untuned.value.mean == pytest.approx(loss + 0.2)
        assert (row.best.value.count, row.best.lr, row.best.trial) == (3, lr, 1)
        assert [one.trial for one in row.settings] == [0, 1, 2]
        assert row.edge == ""
        assert sum(row.counts.values()) == 9
        assert {run.place.role for run in row.best.runs} == {"final"}
    table = choice_table(report)
    assert texts(table, "trial") == ["1"] * 3
    assert texts(table, "trials") == ["3"] * 3
    assert texts(table, "n") == ["3"] * 3
    assert texts(table, "untuned") == ["0.500 ±0.025", "0.510 ±0.025", "0.800 ±0.025"]
    assert texts(table, "optimizer") == ["adamw [1,2]", "lion [2]", "sgd"]
    assert set(texts(run_table(report), "trial")) == {"0", "1", "2", "final", "untuned"}
    assert (
        "best of 3 trials, rerun on 3 fresh seeds; untuned: the same seeds at the default lr"
        in report.notes
    )
    assert "this is one task at one budget; the ranking may differ at another" in report.notes


def test_what_is_noted_is_of_the_final_runs(digits, tmp_path):
    alone = "with one run each, differences cannot be tested; run several seeds"
    assert alone not in make_report([digits]).notes  # though each trial is one run
    root = shutil.copytree(digits, tmp_path / "contest")
    for run_dir in [*root.glob("*/final/seed=1[12]")]:
        shutil.rmtree(run_dir)
    assert alone in make_report([root]).notes


def test_the_steps_are_those_of_final_runs(digits):
    report = make_report([digits], target=0.5)
    steps = {row.values["optimizer"]: row.steps_to_target for row in report.rows}
    assert steps == {"adamw": 200.0, "lion": 400.0, "sgd": float("inf")}


def test_a_best_trial_at_the_edge_is_told(tmp_path):
    root = write_contest(tmp_path / "contest", ["digits"])
    shutil.rmtree(root / "data=digits,optimizer=sgd" / "trial=002")
    rows = {row.values["optimizer"]: row for row in make_report([root]).rows}
    assert [rows[name].edge for name in ("adamw", "sgd")] == ["", "last"]


def test_before_the_final_runs_trials_are_shown_in_parentheses(tmp_path):
    root = write_contest(tmp_path / "contest", ["digits"])
    for study in root.glob("data=*"):
        shutil.rmtree(study / "final")
        shutil.rmtree(study / "untuned")
    report = make_report([root])
    assert [row.rank for row in report.rows] == [None] * 3
    assert texts(choice_table(report), "val/loss") == ["(0.2800)", "(0.2900)", "(0.5800)"]
    assert "no final run has ended: values in parentheses are those of the best trials" \
        in report.notes  # fmt: skip


def test_a_study_alone_is_that_of_a_contestant(digits):
    report = make_report([digits / "data=digits,optimizer=lion"])
    assert [row.values for row in report.rows] == [{"optimizer": "lion"}]
    assert report.rows[0].best.value.count == 3
    assert texts(choice_table(report), "lr") == ["0.001"]


def test_each_task_has_its_report(contest):
    tournament = make_report([contest])
    assert isinstance(tournament, Tournament)
    assert tournament.names == ["data=digits", "data=mnist1d"]
    for place, task in enumerate(tournament.tasks):
        assert len(task.runs) == 27
        means = [row.best.value.mean for row in task.rows]
        assert means == pytest.approx([loss + 0.01 * place for loss, _, _ in SKILLS.values()])
    assert "excluded: lbfgs (evaluates the loss several times an update)" in tournament.notes
    assert any(note.startswith("these are 2 tasks") for note in tournament.notes)


def test_the_standings_are_by_the_profile(contest):
    tournament = make_report([contest], target=0.5)
    assert list(tournament.profile.contestants) == ["adamw", "lion", "sgd"]
    assert tournament.profile.ratios["lion"] == [2.0, 2.0]
    assert tournament.profile.scores == pytest.approx({"adamw": 1.0, "lion": 2 / 3, "sgd": 0.0})
    table = standings(tournament)
    assert texts(table, "score") == ["1.000", "0.667", "0.000"]
    assert texts(table, "data=digits rank") == ["1=", "1=", "3"]
    assert texts(table, "data=mnist1d val/loss") == ["0.310 ±0.025", "0.320 ±0.025", "0.610 ±0.025"]


@pytest.mark.parametrize(("easy", "scored"), [(0, 2), (1, 1), (2, 0)])
def test_a_task_that_all_finish_at_once_says_nothing(contest, tmp_path, easy, scored):
    root = shutil.copytree(contest, tmp_path / "contest")
    for data in ["digits", "mnist1d"][:easy]:
        for history in root.glob(f"data={data},*/final/*/history.csv"):
            header, first, *rest = history.read_text().splitlines()
            *shared, _ = first.split(",")
            history.write_text("\n".join([header, ",".join([*shared, "0.1"]), *rest]) + "\n")
    tournament = make_report([root], target=0.5)
    told = [note for note in tournament.notes if note.startswith("no score from ")]
    assert len(told) == easy
    assert all("val/loss 0.5 at its first validation" in note for note in told)
    ratios = tournament.profile.ratios.values() if tournament.profile else []
    assert {len(own) for own in ratios} == ({scored} if scored else set())


def test_one_that_is_not_at_every_task_has_no_score(contest, tmp_path):
    root = shutil.copytree(contest, tmp_path / "contest")
    shutil.rmtree(root / "data=mnist1d,optimizer=adamw")
    tournament = make_report([root], target=0.5)
    assert list(tournament.profile.contestants) == ["lion", "sgd"]
    table = standings(tournament)
    assert texts(table, "optimizer") == ["lion", "sgd", "adamw"]
    assert texts(table, "score") == ["1.000", "0.000", "-"]
    assert texts(table, "data=mnist1d rank") == ["1", "2", "-"]


def fail(run_dirs):
    for run_dir in run_dirs:
        record = json.loads((run_dir / "job.json").read_text())
        record |= {"exit_code": 1, "status": "failed", "message": "out of memory"}
        (run_dir / "job.json").write_text(json.dumps(record))
        (run_dir / "result.json").unlink()


@pytest.mark.parametrize("what", ["final", "*"])
def test_one_that_fails_at_a_task_never_arrives_there(contest, tmp_path, what):
    """Else the best at one task would win by failing at the other."""
    root = shutil.copytree(contest, tmp_path / "contest")
    study = root / "data=mnist1d,optimizer=adamw"
    fail(study.glob(f"{what}/seed=*"))
    tournament = make_report([root], target=0.5)
    assert tournament.profile.ratios["adamw"] == [1.0, math.inf]
    assert tournament.profile.scores == pytest.approx({"adamw": 0.5, "lion": 5 / 6, "sgd": 0.0})
    assert list(tournament.profile.contestants) == ["lion", "adamw", "sgd"]
    assert texts(standings(tournament), "data=mnist1d val/loss")[1] == "failed"
    assert "no value, as its runs failed: adamw" in tournament.tasks[1].notes
    assert not any("no score" in note for note in tournament.notes)


@pytest.mark.parametrize(("failed", "ratio"), [(1, 1.0), (2, math.inf)])
def test_a_final_run_that_failed_has_not_arrived(contest, tmp_path, failed, ratio):
    root = shutil.copytree(contest, tmp_path / "contest")
    study = root / "data=mnist1d,optimizer=adamw"
    fail(study / f"final/seed={10 + k}" for k in range(failed))
    assert make_report([root], target=0.5).profile.ratios["adamw"] == [1.0, ratio]


def test_one_whose_runs_go_on_has_no_score_yet(contest, tmp_path):
    root = shutil.copytree(contest, tmp_path / "contest")
    shutil.rmtree(root / "data=mnist1d,optimizer=adamw" / "final")
    tournament = make_report([root], target=0.5)
    assert list(tournament.profile.contestants) == ["lion", "sgd"]
    assert "no score, without final runs at every task: adamw" in tournament.notes


def test_several_tournaments_are_as_one_with_all_their_tasks(contest, digits):
    tournament = make_report([contest, digits])
    assert tournament.names == ["contest data=digits", "contest data=mnist1d", "digits data=digits"]
    assert len({*task_files(tournament, contest / "x.html")}) == 3


@pytest.mark.parametrize(("budget", "expected"), [("steps", 2.0), ("seconds", 1.0)])
def test_the_profile_counts_what_is_equal_for_all(tmp_path, budget, expected):
    root = write_contest(tmp_path / "contest", settings={"budget": budget})
    for history in root.glob("*,optimizer=lion/final/*/history.csv"):
        header, *lines = history.read_text().splitlines()
        halved = [line.split(",") for line in lines]
        halved = [",".join([step, f"{float(s) / 2}", *rest]) for step, s, *rest in halved]
        history.write_text("\n".join([header, *halved]) + "\n")
    profile = make_report([root], target=0.5).profile
    assert profile.ratios["lion"] == [expected] * 2


def test_files_of_a_tournament(contest, tmp_path, monkeypatch):
    few = [kind for kind in figures.DRAWINGS if kind.name in ("curves", "trials")]
    for module in (figures, page):
        monkeypatch.setattr(module, "DRAWINGS", few)
    monkeypatch.setattr(figure_files, "PICTURES", (".svg",))  # one of three is enough here
    tournament = make_report([contest], target=0.5)
    files = write(tournament, tmp_path / "out")
    assert {str(file.relative_to(tmp_path / "out")) for file in files} >= {
        "report.html", "report-data=digits.html", "report-data=mnist1d.html", "runs.csv",
        "profile.svg", "data=digits/curves.svg", "data=digits/trials.svg",
    }  # fmt: skip
    assert all(file.exists() for file in files)
    text = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert 'href="./report-data%3Ddigits.html"' in text
    with (tmp_path / "out" / "runs.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 54
    finals = [
        float(line["val/loss"])
        for line in lines
        if (line["study"], line["trial"]) == ("data=digits,optimizer=sgd", "final")
    ]
    assert fmean(finals) == pytest.approx(0.6)
    svg = (tmp_path / "out" / "profile.svg").read_text("utf-8")
    assert "adamw 1.00" in svg
    assert write(tournament, tmp_path / "x.pdf") == [tmp_path / "x.pdf"]
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", ["contest", "digits"])
def test_the_end_of_a_tournament(request, name, capsys):
    root = request.getfixturevalue(name)
    show_sweep(root, Console(width=200))
    told = capsys.readouterr().out
    assert "report.html" in told
    assert (root / "report.html").exists()
    assert ("over all 2 tasks" in told) == (name == "contest")
    assert "[1] " in told
    show_results(root, Console(width=200))
    assert "untuned" in capsys.readouterr().out


def test_the_best_run_of_a_tournament(contest, digits, capsys):
    with pytest.raises(UsageError, match="a tournament of 2 tasks, each with its own best run"):
        show_best([contest], None, None, Console())
    show_best([digits], None, None, Console(width=200))
    assert "optimizer=adamw/final/seed=10" in capsys.readouterr().out


def test_other_questions(contest):
    report = make_report([contest], by=["data"])
    assert isinstance(report, Report)
    assert {row.values["data"] for row in report.rows} == {"digits", "mnist1d"}
    with pytest.raises(UsageError, match="--metric=val/los: no run has it; did you mean val/loss"):
        make_report([contest], metric="val/los")


@pytest.mark.parametrize(
    "text",
    [
        *BROKEN,
        '{"by": "optimizer", "tasks": []}',
        '{"by": 3, "tasks": [{"label": {}, "entries": [{"study": "a", "contestant": "b"}]}]}',
        '{"by": "optimizer", "tasks": [{"label": 1, "entries": [{"study": 3, "contestant": 1}]}]}',
    ],
)
def test_a_damaged_record_of_a_tournament_costs_a_note(tmp_path, text, digits):
    root = tmp_path / "contest"
    root.mkdir()
    for name in ("search.json", "data=digits,optimizer=sgd"):
        (root / name).symlink_to(digits / name)
    (root / TOURNAMENT).write_bytes(text.encode("latin-1"))
    study = root / "data=digits,optimizer=adamw"
    shutil.copytree(digits / study.name / "final", study / "final")
    report = make_report([root])
    assert isinstance(report, Report)
    assert [note for note in report.notes if TOURNAMENT in note]


def test_strange_names_stay_text_and_within_the_folder(tmp_path):
    bad = "../../<b>\x1b[31m"
    root = write_tournament(tmp_path / "contest", ["digits"], ["adamw"], notes={"adamw": [bad]})
    record = json.loads((root / TOURNAMENT).read_text())
    record["tasks"] = [record["tasks"][0] | {"label": {"data": bad}}, record["tasks"][0]]
    (root / TOURNAMENT).write_text(json.dumps(record))
    study = "data=digits,optimizer=adamw"
    write_place(root, f"{study}/final/seed=1", 0.5, {"optimizer": "adamw", "optimizer.lr": "0.1"})
    files = write(make_report([root]), tmp_path / "report.html")
    assert {file.parent for file in files} == {tmp_path}
    for file in files:
        text = file.read_text("utf-8")
        assert "<b>\x1b" not in text
        assert "\x1b" not in text


def test_runs_elsewhere_are_compared_as_usual(contest, tmp_path):
    write_place(tmp_path, "x/seed=0", 0.5, {"optimizer": "adamw", "optimizer.lr": "0.1"})
    assert isinstance(make_report([contest, tmp_path]), Report)
    assert len(read_runs([contest, tmp_path]).runs) == 55
