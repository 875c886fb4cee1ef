"""Runs become settings, rows and ranks; what is typed as an option is checked."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from lit_optim.config.composing import compose_config
from lit_optim.errors import UsageError
from lit_optim.results.cells import choice_table, run_table
from lit_optim.results.comparing import compare, compare_all, detailed
from lit_optim.results.data import History, Run
from lit_optim.results.lrs import default_lr
from lit_optim.runs.status import Status
from tests.results.plain_runs import a_run, seeds, with_curves


def test_a_row_is_a_choice_with_its_best_lr():
    runs = [
        *seeds([0.5, 0.52], lr=0.001),
        *seeds([0.3, 0.32], lr=0.01),
        *seeds([0.4, 0.44], lr=0.1),
        *seeds([0.35, 0.36], optimizer="sgd", lr=0.1),
        *seeds([0.25, 0.26], optimizer="sgd", lr=1.0),
    ]
    report = compare(runs, "t")
    assert (report.columns, report.varied) == (["optimizer"], ["optimizer.lr"])
    assert [row.values["optimizer"] for row in report.rows] == ["sgd", "adamw"]
    sgd, adamw = report.rows
    assert (sgd.best.lr, sgd.edge) == (1.0, "last")
    assert (adamw.best.lr, adamw.edge) == (0.01, "")
    assert [one.lr for one in adamw.settings] == [0.001, 0.01, 0.1]
    assert adamw.best.value.mean == pytest.approx(fmean([0.3, 0.32]))
    assert adamw.best.value.count == 2
    assert adamw.counts[Status.COMPLETED] == 6
    assert adamw.seconds == 2.5
    assert adamw.ms_per_step == 25.0


def test_the_direction_decides_which_is_best():
    runs = [*seeds([0.3, 0.3]), *seeds([0.9, 0.91], optimizer="sgd")]
    turned = [replace(run, mode="max") for run in runs]
    assert [row.values["optimizer"] for row in compare(runs, "t").rows] == ["adamw", "sgd"]
    assert [row.values["optimizer"] for row in compare(turned, "t").rows] == ["sgd", "adamw"]


def test_a_diverged_run_has_the_worst_value_of_all():
    runs = [
        *seeds([0.3, 0.31, 0.32]),
        *seeds([0.2, 0.21], optimizer="sgd"),
        a_run(2.3, "sgd", seed=2, status=Status.DIVERGED),
        a_run(5.0, "lion"),
    ]
    report = compare(runs, "t")
    sgd = next(row for row in report.rows if row.values["optimizer"] == "sgd")
    assert sgd.best.value.mean == pytest.approx(fmean([0.2, 0.21, 5.0]))
    assert report.rows[0].values["optimizer"] == "adamw"
    assert sgd.counts[Status.DIVERGED] == 1


@pytest.mark.parametrize("count", [1, 3])
def test_what_always_diverged_is_behind_what_trained(count):
    """Even if the one that trained has the worst value of all itself."""
    lost = [a_run(math.nan, "sgd", seed=k, status=Status.DIVERGED) for k in range(count)]
    first, last = compare([*lost, *seeds([0.3] * count)], "t").rows
    assert (first.values["optimizer"], first.rank, first.is_tied) == ("adamw", 1, False)
    assert (last.values["optimizer"], last.rank) == ("sgd", None)
    cells = [row[1].text for row in choice_table(compare([*lost, *seeds([0.3] * count)], "t")).rows]
    assert "diverged" in [cell.text for cell in choice_table(compare(lost, "t")).rows[0]]
    assert cells[1] == "diverged"


def test_the_class_of_a_choice_is_no_column_of_its_own():
    runs = [
        a_run(0.3, overrides={"model": name, "model._target_": f"lib.{name.upper()}"})
        for name in ("cnn", "mlp")
    ]
    assert compare(runs, "t").columns == ["model"]
    runs = [a_run(0.3, overrides={"model": "custom", "model._target_": f"my.{x}"}) for x in "AB"]
    assert compare(runs, "t").columns == ["model._target_"]


def test_a_model_that_never_trained_is_not_the_worst_where_others_did():
    """Its value is that of a sanity check, of a batch or two."""
    untrained = a_run(0.9, "sgd", seed=2, status=Status.DIVERGED)
    [sgd] = compare([*seeds([0.3, 0.4], optimizer="sgd"), untrained], "t").rows
    assert sgd.best.value.mean == pytest.approx(fmean([0.3, 0.4, 0.4]))
    curves = [a_run(0.3, seed=3, curve=[0.7, 0.3], status=Status.FAILED), untrained]
    rows = compare([*seeds([0.3, 0.4], optimizer="sgd"), *curves], "t").rows
    assert rows[0].best.value.mean == pytest.approx(fmean([0.3, 0.4, 0.7]))
    alone = compare([untrained, a_run(1.5, "lion", status=Status.DIVERGED)], "t")
    assert [row.best.value.mean for row in alone.rows] == [1.5, 1.5]


def test_an_lr_that_diverged_was_tried():
    runs = [*seeds([0.4, 0.4], lr=0.1), *seeds([0.3, 0.3], lr=1.0)]
    assert compare(runs, "t").rows[0].edge == "last"
    runs += [a_run(math.nan, lr=10.0, status=Status.DIVERGED)]
    assert compare(runs, "t").rows[0].edge == ""
    failed = [replace(run, status=Status.FAILED) if math.isnan(run.value) else run for run in runs]
    assert compare(failed, "t").rows[0].edge == "last"


def test_ranks_are_shared_by_what_cannot_be_told_apart():
    runs = [
        *seeds([0.30, 0.31, 0.32]),
        *seeds([0.305, 0.315, 0.325], optimizer="lion"),
        *seeds([0.9, 0.91, 0.92], optimizer="sgd"),
        a_run(math.nan, "muon", status=Status.FAILED),
    ]
    rows = compare(runs, "t").rows
    assert [(row.values["optimizer"], row.rank, row.is_tied) for row in rows] == [
        ("adamw", 1, True),
        ("lion", 1, True),
        ("sgd", 3, False),
        ("muon", None, False),
    ]


def test_runs_that_have_not_ended_are_shown_and_not_ranked():
    runs = [*seeds([0.3, 0.31]), *seeds([0.1, 0.2], optimizer="sgd", status=Status.RUNNING)]
    adamw, sgd = compare(runs, "t").rows
    assert (sgd.rank, sgd.best.value.count) == (None, 0)
    assert sgd.best.so_far.mean == pytest.approx(0.15)
    assert (adamw.rank, adamw.best.so_far.count) == (1, 0)


@pytest.mark.parametrize("ending", [Status.PRUNED, Status.KILLED, Status.INTERRUPTED])
def test_what_was_cut_off_does_not_count(ending):
    runs = [*seeds([0.3, 0.31]), a_run(0.1, seed=2, status=ending)]
    [row] = compare(runs, "t").rows
    assert (row.best.value.count, row.counts[ending]) == (2, 1)


def test_a_seed_counts_once():
    runs = [*seeds([0.3, 0.4]), a_run(0.3, seed=0), a_run(0.3, seed=0, directory=Path("again"))]
    report = compare(runs, "t")
    assert report.rows[0].best.value.count == 2
    assert report.notes == ["2 runs repeat a seed of the same setting; the last one of each seed "
                            "counts"]  # fmt: skip


def test_keys_that_tell_rows_apart_can_be_chosen():
    runs = [
        run
        for optimizer, base in (("adamw", 0.5), ("sgd", 0.4))
        for schedule, more in (("wsd", 0.0), ("step", 0.1))
        for run in seeds(
            [base + more, base + more + 0.01],
            optimizer=optimizer,
            overrides={"scheduler": schedule},
        )
    ]
    assert len(compare(runs, "t").rows) == 4
    by = compare(runs, "t", by=["scheduler"])
    assert [row.values for row in by.rows] == [{"scheduler": "wsd"}, {"scheduler": "step"}]
    assert by.varied == ["optimizer"]
    assert by.rows[0].best.values["optimizer"] == "sgd"
    with pytest.raises(UsageError, match=r"--by=schedule: no run has .*; did you mean scheduler\?"):
        compare(runs, "t", by=["schedule"])
    with pytest.raises(UsageError, match="--by=seed: rows are means over seeds"):
        compare(runs, "t", by=["seed"])


def test_where_only_the_lr_was_swept_its_values_are_the_rows():
    runs = [*seeds([0.5, 0.51], lr=0.1), *seeds([0.3, 0.31], lr=0.01)]
    report = compare(runs, "t")
    assert [row.values for row in report.rows] == [{"optimizer": "adamw"}]
    rows = detailed(report).rows
    assert [row.values for row in rows] == [{"optimizer.lr": "0.01"}, {"optimizer.lr": "0.1"}]
    assert [row.rank for row in rows] == [1, 2]


def test_different_metrics_are_not_compared():
    runs = [*seeds([0.3, 0.3]), a_run(0.9, "sgd", monitor="val/acc", mode="max")]
    told = r"different metrics: val/loss \(2\), val/acc \(1\); choose"
    with pytest.raises(UsageError, match=told):
        compare(runs, "t")
    first, second = compare_all(runs, "t")
    assert (first.metric, len(first.runs)) == ("val/loss", 2)
    assert (second.metric, second.mode, len(second.runs)) == ("val/acc", "max", 1)


def test_different_directions_are_not_compared():
    runs = [*seeds([0.3, 0.3]), a_run(0.9, "sgd", mode="max"), a_run(0.5, "lion", monitor="")]
    with pytest.raises(UsageError, match="disagree on whether val/loss should be low or high"):
        compare(runs, "t")
    first, second = compare_all(runs, "t")
    assert (first.mode, len(first.runs), second.mode, len(second.runs)) == ("min", 3, "max", 1)


LARGE = [1e308, -1e308, 1.7e308, 1e200, 1e-200, 1e-320, 5e-324, 0.0, 1.0, math.inf, math.nan]


def test_no_value_of_a_float_is_too_large_or_too_small_to_compare():
    for first in LARGE:
        for second in LARGE:
            runs = [
                *seeds([first, second], curve=[1.0, second]),
                *seeds([1.0, 2.0, first], optimizer="sgd", curve=[first]),
            ]
            runs[0] = replace(runs[0], status=Status.DIVERGED)
            report = compare(runs, "t")
            assert len(choice_table(report).rows) == 2
            assert len(run_table(report).rows) == 5
            compare(runs, "t", target=first)


def test_another_metric_is_read_from_what_runs_logged():
    history = History(
        [10, 20], [1, 2], [1, 2], [1, 1], {"val/acc": [0.5, 0.75], "val/loss": [2, 1]}
    )
    runs = [
        replace(a_run(0.3), finals={"val/loss": 0.3, "val/acc": 0.8}),
        replace(a_run(0.3, "sgd"), finals={}, history=history),
        replace(a_run(0.3, "lion"), finals={}, tests={"test/loss": 1.0}),
    ]
    report = compare(runs, "t", "val/acc")
    assert report.mode == "max"
    assert [(row.values["optimizer"], row.best.value.mean) for row in report.rows[:2]] == [
        ("adamw", 0.8),
        ("sgd", 0.75),
    ]
    assert report.runs[1].best == 0.75
    assert "1 of 3 runs has no val/acc" in report.notes
    assert compare(runs, "t", "test/loss").rows[0].best.value.mean == 1.0
    with pytest.raises(UsageError, match="--metric=val/ac: no run has it; did you mean val/acc"):
        compare(runs, "t", "val/ac")


def test_steps_to_a_target_are_those_of_the_first_validation_that_reaches_it():
    fast, slow = compare(with_curves(), "t", target=0.95).rows
    assert fast.steps_to_target == 25  # 30 and 20
    assert slow.steps_to_target == math.inf
    half = compare(with_curves(), "t", target=1.0)
    assert half.rows[0].steps_to_target == 20
    assert half.rows[1].steps_to_target == math.inf  # one of two never arrives
    assert compare(with_curves(), "t", target=1.3).rows[1].steps_to_target == 30


def test_a_target_out_of_reach_is_told():
    report = compare(with_curves(), "t", target=0.1)
    assert [row.steps_to_target for row in report.rows] == [math.inf, math.inf]
    assert report.notes == ["val/loss ≤ 0.1: no run has reached it; the best value is 0.4"]


def test_the_automatic_target_is_what_the_middle_choice_reaches():
    report = compare(with_curves(), "t")
    assert report.target == 0.5
    assert report.notes == [
        "target val/loss ≤ 0.5: the level that every run of adamw, the better of the 2 choices, "
        "reached"
    ]
    assert [row.steps_to_target for row in report.rows] == [30, math.inf]
    turned = [
        replace(run, mode="max", value=-run.value,
                history=replace(run.history, metrics={"val/loss": [-x for x in
                                run.history.metrics["val/loss"]]}))
        for run in with_curves()
    ]  # fmt: skip
    assert compare(turned, "t").target == -0.5
    three = compare([*with_curves(), a_run(1.5, "lion", curve=[2, 1.5])], "t")
    assert (three.target, three.notes) == (
        1.2,
        [
            "target val/loss ≤ 1.2: the level that every run of sgd, the median of the 3 choices, "
            "reached"
        ],
    )
    assert math.isnan(compare(with_curves(), "t", target=None).target)
    assert math.isnan(compare(with_curves()[:2], "t").target)


@pytest.mark.parametrize("monitor", ["val/loss", ""])
def test_runs_none_of_which_has_a_value_are_listed(monitor):
    """Such as those of a sweep in which every run has failed."""
    runs = [
        replace(a_run(math.nan, seed=seed, status=Status.FAILED), monitor=monitor)
        for seed in (0, 1)
    ]
    [report] = compare_all(runs, "t")
    assert report.rows[0].counts[Status.FAILED] == 2
    assert report.rows[0].rank is None


def test_runs_without_a_word_on_the_metric_are_judged_by_that_of_the_others():
    runs = [*seeds([0.3, 0.31]), a_run(math.nan, seed=2, status=Status.FAILED, monitor="")]
    assert compare(runs, "t").rows[0].counts[Status.FAILED] == 1
    unknown = [replace(run, monitor="") for run in with_curves()]
    assert compare(unknown, "t").metric == "val/loss"


@pytest.mark.parametrize(
    "line",
    [
        ["optimizer=sgd"],
        ["optimizer=adamw"],
        ["optimizer=adamw", "data=digits"],
        ["optimizer=muon", "data=digits"],
        ["optimizer=lion", "model=gpt", "data=char_lm"],
    ],
    ids=" ".join,
)
def test_the_default_lr_is_that_of_a_run_without_one(line):
    cfg = compose_config(line)
    choices = {key: str(value) for key, value in cfg.hydra.runtime.choices.items()}
    assert default_lr(Run(Path("."), Status.COMPLETED, choices=choices)) == cfg.optimizer.lr


@pytest.mark.parametrize("choice", ["", "mine", "../adamw", "lbfgs.yaml"])
def test_the_default_lr_of_an_unknown_optimizer_is_unknown(choice):
    run = Run(Path("."), Status.COMPLETED, choices={"optimizer": choice})
    assert math.isnan(default_lr(run))
