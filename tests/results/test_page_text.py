"""What the page of a report says, without a browser."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from lit_optim.results.comparing import compare
from lit_optim.results.page import make_page
from lit_optim.runs.status import Status
from tests.results.made_up import make_report, make_run
from tests.results.plain_runs import a_run, seeds


def test_unfinished_runs_are_marked(tmp_path):
    report = make_report(tmp_path, seeds=2)
    text = make_page(report, tmp_path)
    for status in Status:
        count = sum(run.status is status for run in report.runs)
        assert len(re.findall(rf'<tr [^>]*data-status="{status.value}"', text)) == count
    rows = re.findall(r"<tr [^>]*data-run=[^>]*>", text)
    assert ["unfinished" in row for row in rows] == [
        run.status is Status.RUNNING for run in report.runs
    ]
    assert "left out: runs/sweep/x: job.json" in text


UNFIT = [Status.KILLED, Status.FAILED, Status.RUNNING, Status.INTERRUPTED, Status.PRUNED,
         Status.DIVERGED]  # fmt: skip


@pytest.mark.parametrize("status", UNFIT)
def test_the_best_run_has_gone_to_its_end(tmp_path, status):
    runs = [*seeds([0.6, 0.7], lr=0.1), *seeds([0.4, 0.5]), a_run(0.1, seed=2, status=status)]
    runs = [replace(run, command=f"train {place}") for place, run in enumerate(runs)]
    text = make_page(compare(runs, "x"), tmp_path)
    best = text[text.index('<section class="best">') : text.index('<table id="runs">')]
    assert re.findall(r'data-command="([^"]*)"', best) == ["train 2", "train 2", "train 0"]
    assert "<b>adamw lr 0.01</b>" in best


def test_without_a_run_that_went_to_its_end_none_is_the_best(tmp_path):
    runs = [a_run(0.1, status=Status.KILLED), a_run(0.2, "sgd", status=Status.FAILED)]
    text = make_page(compare(runs, "x"), tmp_path)
    assert '<section class="best">' not in text
    assert text.count('<td class="last">-</td>') == 2


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "values",
    [
        (1e308, 1e200, -1e200, 1e-320),
        (1e308, 1e308, 1e308, 1e308),
        (1e-320, 1e-300, 1.0, 1e308),
        (-1e308, -1e308, 0.0, 1e308),
        (0.0, 0.0, 0.0, 0.0),
    ],
)
def test_values_of_any_size_are_drawn(tmp_path, values, mode):
    runs = []
    for lr, value in zip((1e-308, 1e-3, 1e-2, 1e308), values, strict=True):
        overrides = {"optimizer": "sgd", "optimizer.lr": f"{lr:g}"}
        runs.append(make_run(tmp_path / f"{lr:g}", overrides, value, mode=mode))
        runs[-1].history.metrics["val/loss"][:] = [value, -value] * 12 + [value]
    report = compare(runs, "big")
    assert make_page(report, tmp_path).count('<svg viewBox="0 0 470') >= 3


def test_a_page_of_many_runs_is_small(tmp_path):
    report = make_report(tmp_path, tuple("abcdefghij"), lrs=7, seeds=3, validations=50)
    assert len(report.runs) == 210
    assert len(make_page(report, tmp_path)) < 1 << 20
