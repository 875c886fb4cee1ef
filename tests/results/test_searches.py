"""Reports of searches: studies are rows, trials their settings; their directories are data."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from lit_optim.results.cells import choice_table, run_table
from lit_optim.results.comparing import compare, compare_all, detailed
from lit_optim.results.reading import read_runs
from lit_optim.results.showing import make_report
from lit_optim.results.spreadsheet import write_runs
from tests.results.directories import BROKEN
from tests.results.page_texts import texts
from tests.results.searches import write_place, write_search

LR, DECAY = "optimizer.lr", "optimizer.weight_decay"


def a_search(root: Path, **settings) -> Path:
    """Two studies; that of adamw searches two keys, and proposes the same twice."""
    write_search(root, {"optimizer=adamw": [LR, DECAY], "optimizer=sgd": [LR]}, settings)
    for number, (lr, decay, value) in enumerate(
        [(0.01, 0.0, 0.5), (0.003, 0.1, 0.3), (0.01, 0.0, 0.5), (0.02, 0.1, 0.6)]
    ):
        typed = {"optimizer": "adamw", LR: f"{lr}", DECAY: f"{decay}"}
        for seed in (0, 1):
            place = f"optimizer=adamw/trial={number:03d}/seed={seed}"
            write_place(root, place, value + 0.01 * seed, typed, curve=[0.9, 0.2])
    for number, lr in enumerate([0.1, 1.0]):
        typed = {"optimizer": "sgd", LR: f"{lr}"}
        for seed in (0, 1):
            place = f"optimizer=sgd/trial={number:03d}/seed={seed}"
            write_place(root, place, 0.7 + lr / 10 + 0.01 * seed, typed, curve=[0.9, 0.4])
    return root


def test_a_row_is_a_study_at_its_best_trial(tmp_path):
    report = make_report([a_search(tmp_path / "search")])
    assert report.columns == ["optimizer"]
    assert report.varied == [LR, DECAY]
    assert [row.values["optimizer"] for row in report.rows] == ["adamw", "sgd"]
    adamw = report.rows[0]
    assert [(row.best.trial, len(row.settings)) for row in report.rows] == [(1, 4), (0, 2)]
    assert (adamw.best.value.count, adamw.edge) == (2, "first")
    assert sorted(one.trial for one in adamw.settings) == [0, 1, 2, 3]  # equal ones stay apart
    table = choice_table(report)
    assert texts(table, "trial") == ["1", "0"]
    assert texts(table, "trials") == ["4", "2"]
    assert texts(table, "lr") == ["0.003 edge", "0.1 edge"]
    assert texts(table, f"best {DECAY}") == ["0.1", "-"]
    assert [note for note in report.notes if "repeat" in note] == []
    runs = run_table(report)
    assert texts(runs, "trial") == ["0", "0", "1", "1", "2", "2", "3", "3", "0", "0", "1", "1"]


def test_the_rows_of_one_study_are_its_trials(tmp_path):
    root = write_search(tmp_path / "search", {"": [LR]})
    for number, (lr, value) in enumerate([(0.1, 0.5), (0.01, 0.3), (1.0, 0.8)]):
        typed = {"optimizer": "adamw", LR: f"{lr}"}
        write_place(root, f"trial={number:03d}/seed=0", value, typed)
    report = make_report([root])
    assert len(report.rows) == 1
    rows = detailed(report)
    assert texts(choice_table(rows), "trial") == ["1", "0", "2"]
    assert texts(choice_table(rows), "lr") == ["0.01 edge", "0.1", "1"]


def test_a_study_alone_and_a_search_seen_from_afar(tmp_path):
    root = a_search(tmp_path / "runs" / "search")
    alone = make_report([root / "optimizer=adamw"])
    assert [one.trial for one in alone.rows[0].settings] != [None] * 4
    assert len(alone.runs) == 8
    assert len(make_report([tmp_path]).rows) == 2
    cut = [replace(run, place=None) for run in read_runs([root]).runs]
    assert len(compare(cut, "x").rows) > 2  # the search knows what was searched


def test_two_searches_are_compared_by_what_they_have_in_common(tmp_path):
    """Their trials of the same values are one setting, of other seeds."""
    for name, seeds in (("a", (0, 1)), ("b", (2, 3))):
        root = write_search(tmp_path / name, {"": [LR]})
        for number, lr in enumerate([0.01, 0.1]):
            for seed in seeds:
                typed = {"optimizer": "adamw", LR: f"{lr}"}
                write_place(root, f"trial={number:03d}/seed={seed}", 0.5 + lr + seed / 100, typed)
    report = make_report([tmp_path / "a", tmp_path / "b"])
    assert [one.value.count for one in report.rows[0].settings] == [4, 4]


@pytest.mark.parametrize("at", ["final", "best"])
def test_the_value_that_the_search_has_judged_by(tmp_path, at):
    report = make_report([a_search(tmp_path / "search", at=at)])
    best = {row.values["optimizer"]: row.best.value.mean for row in report.rows}
    by_hand = {"final": {"adamw": 0.305, "sgd": 0.715}, "best": {"adamw": 0.2, "sgd": 0.4}}
    assert best == pytest.approx(by_hand[at])
    heading = next(one for one in choice_table(report).header if one.name == "val/loss")
    assert {"final": "last", "best": "best"}[at] in heading.meaning


def test_the_metric_of_the_search_is_what_is_compared(tmp_path):
    root = write_search(tmp_path / "search", {"": [LR]}, {"metric": "val/acc", "mode": "max"})
    for number, (lr, acc) in enumerate([(0.1, 0.7), (0.01, 0.9)]):
        typed = {"optimizer": "adamw", LR: f"{lr}"}
        both = {"val/loss": lr, "val/acc": acc}
        write_place(root, f"trial={number:03d}/seed=0", lr, typed, final=both, best=both)
    [report] = compare_all(read_runs([root]).runs, "x")
    assert (report.metric, report.mode, report.rows[0].best.trial) == ("val/acc", "max", 1)
    assert make_report([root]).metric == "val/acc"
    assert make_report([root], metric="val/loss").rows[0].best.trial == 1
    write_search(root, {"": [LR]}, {"metric": "val/other"})
    assert make_report([root]).metric == "val/loss"


def test_a_spreadsheet_names_the_trials(tmp_path):
    report = make_report([a_search(tmp_path / "search")])
    write_runs(report, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {(line["study"], line["trial"]) for line in lines} == {
        *(("optimizer=adamw", f"{number}") for number in range(4)),
        *(("optimizer=sgd", f"{number}") for number in range(2)),
    }


@pytest.mark.parametrize("text", [*BROKEN, json.dumps({"studies": [{"name": 3, "space": []}]})])
def test_a_damaged_record_of_a_search_costs_its_trials_and_a_note(tmp_path, text):
    root = a_search(tmp_path / "search")
    (root / "search.json").write_bytes(text.encode("latin-1"))
    report = make_report([root])
    assert all(run.place is None for run in report.runs)
    assert [note for note in report.notes if "search.json" in note]


@pytest.mark.parametrize("name", ["trial=", "trial=x", "trial=-1", "trial=1e3", f"trial={'9' * 99}",
                                  "finals", "trial=٣"])  # fmt: skip
def test_other_directories_below_a_search_are_no_trials(tmp_path, name):
    root = write_search(tmp_path / "search", {"": [LR]})
    write_place(root, f"{name}/seed=0", 0.5, {"optimizer": "adamw", LR: "0.1"})
    [run] = read_runs([root]).runs
    assert run.place is None
