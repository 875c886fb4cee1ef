"""What the terminal, the page and CSV files show: digits, columns, names; nothing that runs."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lit_optim.errors import escape
from lit_optim.results.cells import (
    choice_table,
    format_interval,
    format_ms,
    format_seconds,
    format_steps,
    format_value,
    name_row,
    name_run,
    run_table,
)
from lit_optim.results.comparing import compare, detailed
from lit_optim.results.data import Interval
from lit_optim.results.page import make_page
from lit_optim.results.spreadsheet import write_runs
from lit_optim.results.table import print_report, table
from lit_optim.runs.status import Status
from tests.results.made_up import make_report
from tests.results.plain_runs import a_run, seeds, with_curves

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.13428, 0.01237, "0.134 ±0.012"),
        (2.0, 1.0, "2.0 ±1.0"),  # never 2 ±1
        (0.5, 3.1765, "0.5 ±3.2"),
        (12.3456, 0.0996, "12.35 ±0.10"),
        (1234.5, 120.0, "1234 ±120"),
        (0.98765, 0.00012, "0.98765 ±0.00012"),
        (0.5, 0.0, "0.5000 ±0"),
        (0.12345678, NAN, "0.1235"),
        (12345.678, NAN, "12346"),
        (-0.0213, 0.0011, "-0.0213 ±0.0011"),
        (1.5e-7, 2e-8, "1.50e-07 ±2.0e-08"),
        (2.5e8, NAN, "2.500e+08"),
        (0.0, 0.25, "0.00 ±0.25"),
        (0.0, NAN, "0"),
        (9.9996, NAN, "10.00"),
        (NAN, NAN, "-"),
        (INF, NAN, "inf"),
    ],
)
def test_digits_follow_the_error(mean, half, text):
    assert format_interval(Interval(mean, half, 3)) == text


@pytest.mark.parametrize("seed", range(50))
def test_a_formatted_value_is_within_a_half_of_its_last_digit_of_the_error(seed):
    import random

    chance = random.Random(seed)
    value = chance.uniform(-1, 1) * 10.0 ** chance.randint(-9, 9)
    error = abs(value) * 10.0 ** chance.uniform(-4, 2)
    shown, shown_error = float(format_value(value, error)), float(format_value(error, error))
    assert shown_error == pytest.approx(error, rel=0.051)
    assert abs(shown - value) <= 0.051 * error
    assert float(format_value(value)) == pytest.approx(value, rel=0.00051)


def test_steps_and_times_are_as_a_person_says_them():
    assert [format_steps(x) for x in (1200, 12.5, INF, NAN)] == ["1,200", "13", "never", "-"]
    times = (0.434, 2.13, 9.97, 135.4, 12345.0, NAN)
    assert [format_seconds(x) for x in times] == ["0.43", "2.1", "10", "135", "12,345", "-"]
    assert [format_ms(x) for x in (0.01234, 11.34, 99.96, 1234.5, NAN)] == [
        "0.0123", "11.3", "100", "1,234", "-"]  # fmt: skip


def a_report():
    runs = [
        *seeds([0.5, 0.52], lr=0.001),
        *seeds([0.3, 0.32], lr=0.01),
        a_run(2.0, lr=0.1, status=Status.DIVERGED),
        *seeds([0.25, 0.26], optimizer="sgd", lr=1.0),
        a_run(0.5, "lion", status=Status.RUNNING),
        a_run(NAN, "muon", status=Status.FAILED),
    ]
    return compare(runs, "sweep")


def test_the_columns_of_choices():
    cells = choice_table(a_report())
    names = [heading.name for heading in cells.header]
    assert names == ["optimizer", "lr", "val/loss", "n", "rank", "seconds", "ms/step", "diverged",
                     "failed", "unfinished"]  # fmt: skip
    assert [[cell.text for cell in row] for row in cells.rows] == [
        ["sgd", "1", "0.2550", "2", "1=", "2.5", "25.0", "", "", ""],
        ["adamw", "0.01", "0.3100", "2", "1=", "2.5", "25.0", "1", "", ""],
        ["lion", "0.01", "(0.5000)", "0", "-", "-", "-", "", "", "1"],
        ["muon", "0.01", "-", "0", "-", "-", "-", "", "1", ""],
    ]
    assert cells.keys == 1
    assert [row[1].value for row in cells.rows] == [1.0, 0.01, 0.01, 0.01]


def test_the_edge_and_the_target_are_shown_where_they_are():
    runs = [replace(run, tests={"test/loss": 1.0, "test/acc": 0.5}) for run in with_curves()]
    runs += [replace(a_run(0.45, lr=0.001, curve=[2, 1, 0.45]))]
    cells = choice_table(compare(runs, "t"))
    names = [heading.name for heading in cells.header]
    assert names == ["optimizer", "lr", "val/loss", "n", "rank", "test/loss",
                     "steps to val/loss ≤ 0.45", "seconds", "ms/step"]  # fmt: skip
    first, second = ([cell.text for cell in row] for row in cells.rows)
    assert first[1:7] == ["0.001 edge", "0.4500", "1", "1=", "-", "30"]
    assert second[1:7] == ["0.01", "1.100", "2", "1=", "1.000", "never"]  # one has no edge


def test_other_keys_than_the_lr_are_told_of_the_best_setting():
    runs = [
        run
        for schedule, value in (("wsd", 0.5), ("step", 0.3))
        for run in seeds([value, value], overrides={"scheduler": schedule})
    ]
    cells = choice_table(compare(runs, "t", by=["optimizer"]))
    assert [heading.name for heading in cells.header][:2] == ["optimizer", "best scheduler"]
    assert cells.rows[0][1].text == "step"


def test_the_table_of_runs_has_one_row_for_each():
    report = a_report()
    cells = run_table(report)
    names = [heading.name for heading in cells.header]
    assert names[:5] == ["optimizer", "lr", "seed", "status", "val/loss"]
    assert len(cells.rows) == len(report.runs)
    assert [cell.text for cell in cells.rows[4]][:5] == ["adamw", "0.1", "0", "diverged", "0.5200"]


def test_values_of_a_column_have_the_same_digits():
    runs = seeds([0.1075, 0.12, 0.1525, 0.08, 1e30, NAN, 1e-9])
    cells = run_table(compare(runs, "t"))
    at = [heading.name for heading in cells.header].index("val/loss")
    assert [row[at].text for row in cells.rows] == [
        "0.1075", "0.1200", "0.1525", "0.0800", "1.000e+30", "-", "1.000e-09"]  # fmt: skip


def test_names_are_what_differs():
    report = a_report()
    assert [name_row(report, row) for row in report.rows] == ["sgd", "adamw", "lion", "muon"]
    assert name_run(report, report.runs[1]) == "adamw 0.001 s1"
    alike = compare([replace(run, overrides={}, choices={}) for run in seeds([0.5, 0.6])], "t")
    assert [name_row(alike, row) for row in alike.rows] == ["all runs"]


def shown(report):
    out = io.StringIO()
    print_report(report, Console(file=out, width=200))
    return out.getvalue()


def test_the_terminal_shows_the_cells_and_the_notes():
    text = shown(compare([*with_curves(), a_run(0.1, seed=5)], "t", target=0.01))
    words = re.split(r"\s{2,}|\n", text)
    assert {"adamw", "sgd", "never"} <= {word.strip() for word in words}
    assert "val/loss ≤ 0.01: no run has reached it; the best value is 0.1" in text


def test_rows_without_a_value_are_red():
    assert table(a_report()).styles == ["", "", "", "red"]


def test_where_only_the_lr_was_swept_the_terminal_shows_each():
    runs = [*seeds([0.5, 0.51], lr=0.1), *seeds([0.3, 0.31], lr=0.01)]
    lines = [line.split() for line in shown(compare(runs, "t")).splitlines() if line.strip()]
    assert [line[:2] for line in lines[-2:]] == [["0.01", "edge"], ["0.1", "0.5050"]]


def test_where_only_the_lr_was_swept_its_table_has_an_edge_ranks_and_a_target():
    curves = {1.0: [2, 1.9], 0.3: [2, 0.5], 0.1: [2, 0.9], 0.03: [2, 1.5]}
    runs = [
        a_run(curve[-1] + seed / 100, lr=lr, seed=seed, curve=curve)
        for lr, curve in curves.items()
        for seed in (0, 1)
    ]
    report = compare(runs, "t")
    assert len(report.rows) == 1  # which figures need
    assert report.notes == ["target val/loss ≤ 0.91: the level that every run of lr 0.1, "
                            "the median of the 4 choices, reached"]  # fmt: skip
    cells = choice_table(detailed(report))
    rows = [[cell.text for cell in row][:4] for row in cells.rows]
    names = [heading.name for heading in cells.header]
    assert names[:5] == ["lr", "val/loss", "n", "rank", "steps to val/loss ≤ 0.91"]
    assert [row[0] for row in rows] == ["0.3", "0.1", "0.03", "1"]
    assert [row[4].text for row in cells.rows] == ["20", "20", "never", "never"]
    best = [run for run in runs if run.settings["optimizer.lr"] in (0.3, 1.0)]
    first = [cell.text for cell in choice_table(detailed(compare(best, "t"))).rows[0]]
    assert first[0] == "0.3 edge"
    notes = shown(compare([a_run(0.5), a_run(0.4, lr=0.1)], "t"))
    assert notes.count("differences cannot be tested") == 1


def test_the_page_shows_the_same_rows_of_a_sweep_over_the_lr_alone(tmp_path):
    report = make_report(tmp_path, optimizers=("sgd",), lrs=3)
    text = make_page(report, tmp_path)
    terminal = [[cell.text for cell in row] for row in choice_table(detailed(report)).rows]
    body = re.search(r'<table id="choices">.*?<tbody>(.*?)</tbody>', text, re.DOTALL)[1]
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in body.split("<tr ")[1:]]
    assert rows == terminal
    assert len(rows) == 3
    assert "<b>sgd lr" in text
    places = set(re.findall(r'data-run="\d+" data-row="(\d)"', text))
    assert places == {"0", "1", "2"}


def test_columns_that_are_compared_have_the_same_digits():
    first, second, third = seeds([0.0825, 0.25, 0.5])
    runs = [replace(first, seconds=1.0), replace(second, seconds=0.97), replace(third, seconds=4.1)]
    cells = run_table(compare([replace(run, best=0.0825) for run in runs], "t"))
    texts = {
        heading.name: [row[at].text for row in cells.rows]
        for at, heading in enumerate(cells.header)
    }
    assert texts["val/loss"] == ["0.0825", "0.2500", "0.5000"]
    assert texts["best val/loss"] == ["0.0825"] * 3
    assert texts["seconds"] == ["1.0", "0.97", "4.1"]


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", '=HYPERLINK("x")']


@pytest.mark.parametrize("text", FORMULAS)
def test_no_spreadsheet_calculates_what_a_run_says(tmp_path, text):
    run = a_run(
        0.5, overrides={"model.x": text, text: "1"}, message=text, command=text,
        directory=Path(text), choices={"optimizer": text}, tests={text: 1.0},
    )  # fmt: skip
    write_runs(compare([run], "t"), tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert (escape(text) if text[0] in "\t\r" else f"'{text}") in cells
    assert not any(re.match(r"[=+\-@\t\r]", cell) for cell in cells)


def test_a_csv_file_has_every_run_with_all_digits(tmp_path):
    third = 1 / 3
    failed = a_run(NAN, "sgd", status=Status.FAILED, message='it, "so"\nx')
    runs = [*seeds([third, -2e-9]), failed]
    runs[0] = replace(runs[0], finals={"val/acc": third}, tests={"test/acc": 0.5}, command="a b")
    write_runs(compare(runs, "t"), tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        first, second, failed = csv.DictReader(file)
    assert float(first["val/loss"]) == float(first["val/acc"]) == third
    assert float(second["val/loss"]) == -2e-9
    assert (first["optimizer"], first["optimizer.lr"], first["seed"]) == ("adamw", "0.01", "0")
    assert (first["command"], first["test/acc"], second["test/acc"]) == ("a b", "0.5", "")
    assert (failed["status"], failed["val/loss"], failed["message"]) == (
        "failed", "", 'it, "so"\\nx')  # fmt: skip
