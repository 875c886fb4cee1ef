"""What figures show, read back from matplotlib's artists, and the files made of them."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.markers import CARETUP, CARETUPBASE, MarkerStyle
from PIL import Image

from lit_optim.errors import UsageError
from lit_optim.results import figure_files
from lit_optim.results.axes import format_number
from lit_optim.results.comparing import compare
from lit_optim.results.data import Place, Report
from lit_optim.results.figure_files import check_figures, write_figure_files, write_figures
from lit_optim.results.figures import DRAWINGS, draw_figure, drawing
from lit_optim.results.looks import COLORS, GRAY, PAGE, PAPER, SCALE
from lit_optim.results.series import expect_best
from lit_optim.runs.status import Status
from tests.results.made_up import GOOD, make_report, make_run

BY_NAME = {kind.name: kind for kind in DRAWINGS}


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report(is_search=True)


def draw(name: str, report: Report, look=PAGE):
    """The axes of one figure, and its artists by what they stand for."""
    with drawing(look):
        figure = draw_figure([BY_NAME[name]], report, look)
        figure.draw_without_rendering()
    [axes] = figure.axes
    tagged: dict[str, list] = {}
    for artist in [*axes.lines, *axes.patches, *axes.collections]:
        if artist.get_gid():
            tagged.setdefault(artist.get_gid(), []).append(artist)
    return axes, tagged


def test_sensitivity_has_a_dot_for_each_run(report):
    axes, tagged = draw("sensitivity", report)
    low, high = axes.get_ylim()
    assert axes.get_xscale() == "log"
    for place, run in enumerate(report.runs):
        [dot] = tagged[f"run-{place}"]
        assert dot.get_xdata() == [float(run.overrides["optimizer.lr"])]
        if run.status is Status.DIVERGED:
            assert dot.get_marker() == "x"
            assert dot.get_ydata() == [pytest.approx(high - 0.035 * (high - low))]
        else:
            assert dot.get_ydata() == [min(run.value, high - 0.035 * (high - low))]
            assert low < run.value
            is_hollow = run.status in (Status.FAILED, Status.RUNNING)
            assert (dot.get_markerfacecolor() == "none") == is_hollow
    for place, row in enumerate(report.rows):
        line, tick = tagged[f"row-{place}"]
        means = {s.lr: s.value.mean for s in row.settings if math.isfinite(s.value.mean)}
        assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == means
        assert (tick.get_xdata(), tick.get_linestyle()) == ([row.default_lr], "None")


def of_lr(lr: float, value: float, status=Status.COMPLETED, **more):
    """A run of SGD with a learning rate; further settings by their keys, without a `mode`."""
    mode = more.pop("mode", "min")
    overrides = {"optimizer": "sgd", "optimizer.lr": f"{lr:g}", "seed": "0"} | more
    return make_run(Path(f"{lr:g}-{more}"), overrides, value, status, mode=mode)


def test_sensitivity_of_a_metric_that_rises():
    runs = [of_lr(10.0**-k, 0.1 * k, mode="max") for k in range(6)]
    runs.append(of_lr(10.0, 0.0, Status.DIVERGED, mode="max"))
    axes, tagged = draw("sensitivity", compare(runs, "rising"))
    [lost], [best] = tagged["run-6"], tagged["run-5"]
    low, high = axes.get_ylim()
    assert lost.get_ydata() == [pytest.approx(low + 0.035 * (high - low))]
    assert best.get_ydata() == [0.5]


def test_an_lr_far_off_leaves_the_others_their_room():
    tried = {1e-12: 0.8, 0.01: 0.6, 0.03: 0.5, 0.1: 0.4, 0.3: 0.7, 1e20: 0.9}
    report = compare([of_lr(lr, value) for lr, value in tried.items()], "x")
    axes, tagged = draw("sensitivity", report)
    low, high = axes.get_xlim()
    assert 1e-5 < low < high < 10
    line, _ = tagged["row-0"]
    assert list(line.get_xdata()) == [0.01, 0.03, 0.1, 0.3]
    [under], [above] = tagged["run-0"], tagged["run-5"]
    assert low < under.get_xdata()[0] < 0.01 < 0.3 < above.get_xdata()[0] < high
    labels = {label.get_text() for label in axes.get_xticklabels(minor=True)}
    assert labels == {"←1e-12", "→1e20"}

    _, tagged = draw("parallel", report)
    heights = [tagged[f"run-{k}"][0].get_path().vertices[0][1] for k in range(len(tried))]
    assert heights == sorted(heights)
    assert np.diff(heights).min() > 0.1


@pytest.mark.parametrize("look", [PAGE, PAPER])
@pytest.mark.parametrize("name", ["sensitivity", "curves", "best_of"])
def test_nothing_is_drawn_over_words(report, name, look):
    """The target's name is beside the frame, the marks of default lrs above the ticks' labels."""
    axes, tagged = draw(name, report, look)
    [target] = [text for text in axes.texts if text.get_text() == "target"]
    assert target.get_window_extent().x0 > axes.bbox.x1
    assert target.get_window_extent().x1 < axes.figure.bbox.x1
    for marks in tagged.values():
        for mark in marks:
            if getattr(mark, "get_marker", str)() in (CARETUP, CARETUPBASE):
                style = MarkerStyle(mark.get_marker())
                outline = style.get_path().transformed(style.get_transform())
                assert outline.vertices[:, 1].min() > -1e-9  # stands on the axis


def test_labels_of_the_first_axis_are_where_no_line_runs(report):
    axes, _ = draw("parallel", report)
    first = [text for text in axes.texts if text.get_text() in GOOD]
    assert len(first) == len(GOOD)
    start = axes.transData.transform((0, 0))[0]
    assert all(text.get_window_extent().x1 < start for text in first)


def test_two_settings_of_one_lr_are_joined_by_the_better():
    tried = {("0.1", "0.9"): 0.5, ("0.1", "0.5"): 0.4, ("0.2", "0.9"): 0.6}
    runs = [of_lr(float(lr), v, **{"optimizer.momentum": m}) for (lr, m), v in tried.items()]
    _, tagged = draw("sensitivity", compare(runs, "x", by=["optimizer"]))
    line, _ = tagged["row-0"]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0.1, 0.2], [0.4, 0.6])


def test_curves_are_the_mean_and_the_range_of_seeds(report):
    axes, tagged = draw("curves", report)
    for place, row in enumerate(report.rows):
        whole = [run for run in row.best.runs if run.status is Status.COMPLETED]
        losses = [run.history.metrics["val/loss"] for run in whole]
        [line] = [artist for artist in tagged[f"row-{place}"] if hasattr(artist, "get_xdata")]
        assert list(line.get_xdata()) == list(whole[0].history.step)
        assert list(line.get_ydata()) == pytest.approx(
            [fmean(at) for at in zip(*losses, strict=True)]
        )
        [band] = [artist for artist in tagged[f"row-{place}"] if artist is not line]
        [shape] = band.get_paths()
        corners = {tuple(corner) for corner in shape.vertices.round(9)}
        for step, at in zip(whole[0].history.step, zip(*losses, strict=True), strict=True):
            assert {(step, round(min(at), 9)), (step, round(max(at), 9))} <= corners
        for run in row.best.runs:
            [own] = tagged[f"run-{report.runs.index(run)}-hidden"]
            assert list(own.get_ydata()) == list(run.history.metrics["val/loss"])
    last = [run.value for row in report.rows for run in row.best.runs if run.value == run.value]
    assert axes.get_ylim()[0] < min(last) < max(last) < axes.get_ylim()[1]


def test_a_diverged_seed_is_marked_where_it_ended():
    lost = of_lr(0.1, 2.9, Status.DIVERGED, seed="2")
    runs = [of_lr(0.1, 0.5), of_lr(0.1, 0.6, seed="1"), lost]
    _, tagged = draw("curves", compare(runs, "x"))
    [mark] = tagged["run-2"]
    assert (mark.get_xdata(), mark.get_marker()) == ([lost.history.step[-1]], "x")
    [line] = [artist for artist in tagged["row-0"] if hasattr(artist, "get_xdata")]
    assert line.get_xdata()[-1] == 1000


def test_best_of_counts_settings(report):
    axes, tagged = draw("best_of", report)
    for place, row in enumerate(report.rows):
        means = [s.value.mean for s in row.settings if math.isfinite(s.value.mean)]
        [line] = tagged[f"row-{place}"]
        assert list(line.get_xdata()) == list(range(1, len(means) + 1))
        assert list(line.get_ydata()) == pytest.approx(expect_best(means, "min"))
        assert line.get_ydata()[-1] == pytest.approx(min(means))
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_parallel_lines_end_at_their_result(report):
    axes, tagged = draw("parallel", report)
    ends = {}
    for place, run in enumerate(report.runs):
        [line] = tagged[f"run-{place}"]
        corners = line.get_path().vertices
        assert (corners[0][0], corners[-1][0]) == (0, 2)  # optimizer, lr, metric
        ends[place] = corners[-1][1]
        assert (line.get_linestyle() == "-") == (run.status is Status.COMPLETED)
    whole = [place for place in ends if report.runs[place].status is Status.COMPLETED]
    by_value = [ends[place] for place in sorted(whole, key=lambda place: report.runs[place].value)]
    assert by_value == sorted(by_value)
    assert len(set(by_value)) > 40  # those beyond the window end at its edge
    assert all(ends[place] == 1 for place in ends if report.runs[place].status is Status.DIVERGED)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["optimizer", "lr", "val/loss"]
    best = min((run for run in report.runs if run.value == run.value), key=lambda run: run.value)
    [line] = tagged[f"run-{report.runs.index(best)}"]
    assert to_hex(line.get_edgecolor()) == SCALE[0]
    assert line.get_linewidth() == max(path.get_linewidth() for path in axes.patches)


def test_the_thickest_line_is_a_run_that_went_to_its_end():
    runs = [of_lr(0.1, 0.5), of_lr(0.2, 0.1), of_lr(0.3, 0.6)]
    runs[1] = replace(runs[1], status=Status.KILLED)
    axes, tagged = draw("parallel", compare(runs, "x"))
    [line] = tagged["run-0"]
    others = [path.get_linewidth() for path in axes.patches if path is not line]
    assert line.get_linewidth() > max(others)


def test_starts_on_an_axis_tell_the_settings_apart(report):
    _, tagged = draw("parallel", report)
    starts: dict[str, set[float]] = {}
    for place, run in enumerate(report.runs):
        for line in tagged.get(f"run-{place}", []):
            starts.setdefault(run.overrides["optimizer"], set()).add(line.get_path().vertices[0][1])
    assert all(len(heights) == 1 for heights in starts.values())
    assert len(set.union(*starts.values())) == len(report.rows)


def test_what_cannot_be_drawn_says_what_it_needs(report):
    little = compare([make_run(Path("a"), {"optimizer": "adamw"}, 0.5, validations=1)], "x")
    for kind in DRAWINGS:
        assert kind.miss(report) == ""
        assert kind.miss(little), kind.name
        assert kind.miss(replace(report, rows=[], runs=[])), kind.name


def test_trials_show_each_value_and_the_best_so_far(report):
    _, tagged = draw("trials", report)
    for place, row in enumerate(report.rows):
        [line] = tagged[f"row-{place}"]
        seen, best = {}, math.inf
        for trial in sorted(row.settings, key=lambda one: one.trial):
            values = {run.seed: run.value for run in trial.runs if run.has_ended}
            if values:
                best = min(best, fmean(values.values()))
                seen[trial.trial] = best
            [dot] = tagged[f"run-{report.runs.index(trial.runs[0])}"]
            assert dot.get_xdata() == [trial.trial]
            has_diverged = any(run.status is Status.DIVERGED for run in trial.runs)
            assert (dot.get_marker() == "x") == has_diverged
        assert list(line.get_xdata()) == list(seen)
        assert list(line.get_ydata()) == pytest.approx(list(seen.values()))
        assert line.get_drawstyle() == "steps-post"


def test_a_trial_that_was_stopped_is_hollow_and_never_the_best():
    def trial(number, value, status):
        run = make_run(Path(f"{number}"), {"optimizer": "sgd"}, value, status)
        place = Place(Path("x"), "", "trial", number, ["optimizer.lr"], "val/loss")
        return replace(run, value=value, place=place, settings={"optimizer.lr": 0.1 * number})

    ends = [Status.COMPLETED, Status.PRUNED, Status.COMPLETED]
    runs = [trial(k, [0.5, 0.1, 0.4][k], end) for k, end in enumerate(ends)]
    report = compare(runs, "x")
    _, tagged = draw("trials", report)
    [line] = tagged["row-0"]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 2], [0.5, 0.4])
    hollow = [tagged[f"run-{k}"][0].get_markerfacecolor() == "none" for k in range(3)]
    assert hollow == [False, True, False]


def test_further_rows_are_gray_and_counted():
    report = make_report(optimizers=[f"o{k}" for k in range(len(COLORS) + 3)], lrs=3, seeds=1)
    with drawing(PAPER):
        figure = draw_figure([BY_NAME["curves"]], report, PAPER)
    [legend] = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[: len(COLORS)] == [row.values["optimizer"] for row in report.rows[: len(COLORS)]]
    assert texts[len(COLORS)] == "3 others"
    grays = [line for line in figure.axes[0].lines if to_hex(line.get_color()) == GRAY]
    assert len(grays) == 3


def test_legend_is_outside_and_says_what_marks_mean(report):
    with drawing(PAPER):
        figure = draw_figure([BY_NAME["sensitivity"]], report, PAPER)
        figure.draw_without_rendering()
    [legend] = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    marks = ["diverged", "unfinished", "lr if none is given"]
    assert texts == [row.values["optimizer"] for row in report.rows] + marks
    [axes] = figure.axes
    assert legend.get_window_extent().y1 <= axes.get_tightbbox().y0 + 1
    assert legend.get_window_extent().x0 >= 0
    assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_files_fit_a_column(report, tmp_path):
    before = dict(matplotlib.rcParams)
    files = write_figure_files(report, tmp_path)
    assert dict(matplotlib.rcParams) == before
    names = {f"{kind.name}.{ending}" for kind in DRAWINGS for ending in ("pdf", "svg", "png")}
    assert {file.name for file in files} == names == {file.name for file in tmp_path.iterdir()}
    for kind in DRAWINGS:
        picture = Image.open(tmp_path / f"{kind.name}.png")
        assert picture.size[0] == round(PAPER.width / 72 * 300)
        assert round(picture.info["dpi"][0]) == 300
        pdf = (tmp_path / f"{kind.name}.pdf").read_bytes()
        assert b"/Type3" not in pdf  # which journals refuse
        assert b"/FontFile2" in pdf  # TrueType
        svg = (tmp_path / f"{kind.name}.svg").read_text("utf-8")
        words = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        assert {"muon", "lion", "adamw", "sgd"} <= set(words)
    once = {file: file.read_bytes() for file in files}
    write_figure_files(report, tmp_path)
    assert {file: file.read_bytes() for file in files} == once


def test_one_file_has_what_its_name_says(report, tmp_path):
    heights = {}
    for name in ("curves.png", "all.png"):
        write_figures(report, tmp_path / name)
        heights[name] = Image.open(tmp_path / name).size[1]
    # one legend for all
    assert (len(DRAWINGS) - 1) * heights["curves.png"] < heights["all.png"]
    assert heights["all.png"] < len(DRAWINGS) * heights["curves.png"]
    assert len(list(tmp_path.iterdir())) == 2


def test_mistakes(report, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="nothing to draw; it needs several learning rates"):
        write_figures(replace(report, rows=[], runs=[]), tmp_path / "x.png")
    with pytest.raises(UsageError, match="it needs several settings"):
        write_figures(compare([of_lr(0.1, 0.5)], "x"), tmp_path / "best_of.pdf")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(figure_files, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs matplotlib"):
        check_figures(tmp_path / "x.png")


def test_names_are_text_in_files(tmp_path, recwarn):
    names = ("$x_1$ <b> & 🚀 \x1b[31m\0", r"$\frac{1}{0", "a" * 300)
    report = make_report(optimizers=names, lrs=3, seeds=2)
    write_figure_files(replace(report, metric="val/loss"), tmp_path)
    svg = (tmp_path / "curves.svg").read_text("utf-8")
    assert "$x_1$ &lt;b&gt; &amp; 🚀 \\x1b[31m\\x00" in svg
    assert [str(warning.message) for warning in recwarn if "lyph" in str(warning.message)] == []


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (3e-5, "3e-5"), (1e-4, "1e-4"), (0.001, "0.001"), (0.02, "0.02"), (1, "1"), (0, "0"),
        (1234.5, "1234"), (20_000, "20000"), (1e6, "1e6"), (-2.5e-7, "-2.5e-7"),
    ],
)  # fmt: skip
def test_numbers_are_short(number, text):
    assert format_number(number) == text
    assert float(text) == pytest.approx(number, rel=1e-3)
