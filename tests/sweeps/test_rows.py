"""A row holds the runs that differ only in their seed, whatever was typed."""

from __future__ import annotations

import io
import itertools
import json
import re

import pytest
from rich.console import Console

from lit_optim.sweeps.ending import end_sweep
from lit_optim.sweeps.rows import group_runs
from lit_optim.sweeps.table import read_jobs, table


def write_run(sweep, name, overrides, value=0.5, choices=None, settings=None, code=0, **result):
    """A finished job, as the launcher and the run write it."""
    run_dir = sweep / name
    run_dir.mkdir(parents=True)
    choices = {"optimizer": "adamw", "scheduler": "cosine_warmup"} | (choices or {})
    settings = {"seed": 0, "data.seed": 0, "optimizer.lr": 0.01} | (settings or {})
    record = {"overrides": overrides, "exit_code": code, "choices": choices}
    (run_dir / "job.json").write_text(json.dumps(record))
    (run_dir / "asked.json").write_text(json.dumps(settings))
    if code == 0:
        scores = {result.get("monitor", "val/acc"): value}
        whole = {"monitor": "val/acc", "mode": "max", "seconds": 12.5, "choices": choices}
        whole |= {"final": scores, "best": scores, "test": {"test/acc": value}} | result
        (run_dir / "result.json").write_text(json.dumps(whole))


def seeds(sweep, name, overrides, **more):
    for seed in (0, 1):
        settings = more.pop("settings", {}) | {"seed": seed, "data.seed": seed}
        line = [*overrides, f"++seed={seed}"]
        write_run(sweep, f"{name}-{seed}", line, settings=settings, **more)
        more["settings"] = settings


def test_a_typed_value_is_distinguished_from_the_default(tmp_path):
    seeds(tmp_path, "adam", ["optimizer=adam"], choices={"optimizer": "adam"})
    seeds(tmp_path, "adamw", ["optimizer=adamw"])
    for schedule in ("wsd", "constant"):
        line = ["optimizer=adamw", f"scheduler={schedule}"]
        seeds(tmp_path, schedule, line, choices={"scheduler": schedule})
    columns, rows = group_runs(read_jobs(tmp_path))
    assert columns == ["optimizer", "scheduler"]
    assert {tuple(row.cells): len(row.runs) for row in rows} == {
        ("adam", "cosine_warmup"): 2,
        ("adamw", "cosine_warmup"): 2,
        ("adamw", "wsd"): 2,
        ("adamw", "constant"): 2,
    }


@pytest.mark.parametrize("order", list(itertools.permutations("abc")), ids="".join)
def test_columns_come_from_all_jobs_whichever_is_the_first(tmp_path, order):
    lines = {
        "x": ([], {}),  # a default run, as `-m resume=DIR` once made
        "y": (["optimizer=sgd", "++optimizer.lr=0.1"], {"optimizer": "sgd"}),
        "z": (["data=digits"], {"data": "digits"}),
    }
    for name, (line, choices) in zip(order, lines.values(), strict=True):
        lr = 0.1 if "++optimizer.lr=0.1" in line else 0.01
        write_run(
            tmp_path, name, line, settings={"optimizer.lr": lr},
            choices={"data": "mnist1d"} | choices,
        )  # fmt: skip
    columns, rows = group_runs(read_jobs(tmp_path))
    assert set(columns) == {"optimizer", "optimizer.lr", "data"}
    assert {frozenset(row.cells) for row in rows} == {
        frozenset(cells)
        for cells in (("adamw", "0.01", "mnist1d"), ("sgd", "0.1", "mnist1d"),
                      ("adamw", "0.01", "digits"))
    }  # fmt: skip


def test_a_value_that_was_not_typed_distinguishes_rows(tmp_path):
    write_run(tmp_path, "a", ["++seed=0"], settings={"model.width": 100})
    write_run(tmp_path, "b", ["++seed=0"], settings={"model.width": 200})
    columns, rows = group_runs(read_jobs(tmp_path))
    assert columns == ["model.width"]
    assert [row.cells for row in rows] == [["100"], ["200"]]


def test_equal_values_are_one_row_however_they_were_typed(tmp_path):
    write_run(tmp_path, "a", ["++optimizer.lr=1e-2", "++seed=0"])
    write_run(tmp_path, "b", ["++optimizer.lr=0.01", "++seed=1"], settings={"seed": 1})
    write_run(tmp_path, "c", ["++seed=2", "++n_jobs=2"], settings={"seed": 2, "data.seed": 2})
    _, rows = group_runs(read_jobs(tmp_path))
    (tmp_path / "b" / "asked.json").write_text('{"seed": 1, "data.seed": 1, "optimizer.lr": 0.01}')
    _, rows = group_runs(read_jobs(tmp_path))
    assert [len(row.runs) for row in rows] == [3]


def test_a_failed_run_belongs_to_the_row_of_its_values(tmp_path):
    seeds(tmp_path, "a", ["optimizer=adamw"])
    seeds(tmp_path, "b", ["optimizer=sgd"], choices={"optimizer": "sgd"})
    write_run(tmp_path, "a-2", ["optimizer=adamw", "++seed=2"], code=1)
    (tmp_path / "a-2" / "asked.json").unlink()  # of an older version, which failed early
    (tmp_path / "a-2" / "job.json").write_text(
        '{"overrides": ["optimizer=adamw", "++seed=2"], "exit_code": 1}'
    )
    _, rows = group_runs(read_jobs(tmp_path))
    assert {row.cells[0]: len(row.runs) for row in rows} == {"adamw": 3, "sgd": 2}


BROKEN = ["", "{}", "[]", "null", "7", "{", '{"overrides": 3, "exit_code": 0}',
          '{"overrides": [1], "exit_code": 0}', '{"overrides": [], "exit_code": "0"}',
          '{"overrides": [], "exit_code": true}', "[" * 5000, "\xff"]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_invalid_records_are_left_out(tmp_path, text, capsys):
    write_run(tmp_path, "good", ["optimizer=adamw"])
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "job.json").write_text(text, "latin-1")
    [job] = read_jobs(tmp_path)
    assert job.run_dir.name == "good"
    write_run(tmp_path, "other", ["optimizer=adamw"])
    (tmp_path / "other" / "result.json").write_text(text, "latin-1")
    (tmp_path / "other" / "asked.json").write_text(text, "latin-1")
    assert table(read_jobs(tmp_path)).rows


def test_runs_with_different_metrics_have_their_own_columns(tmp_path):
    write_run(tmp_path, "a", ["model=cnn"], 0.9, choices={"model": "cnn"})
    write_run(
        tmp_path, "b", ["model=gpt"], 1.5, choices={"model": "gpt"}, monitor="val/loss", mode="min",
        test={"test/loss": 1.25},
    )  # fmt: skip
    whole = table(read_jobs(tmp_path))
    assert whole.header == [
        "model", "best\nval/acc", "final\nval/acc", "best\nval/loss", "final\nval/loss",
        "test/acc", "test/loss", "runs", "seconds",
    ]  # fmt: skip
    assert whole.rows[1] == ["gpt", "-", "-", "1.5000", "1.5000", "-", "1.2500", "1", "12.5"]


WIDTHS = (40, 60, 80, 200)


def shown(whole, width=None, terminal=True, **environment):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, _environ=environment,
                      color_system=None)  # fmt: skip
    whole.print(console)
    return out.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("how", ["terminal", "dumb", "pipe", "plain print"])
def test_numbers_and_names_are_not_truncated_at_any_width(tmp_path, width, how):
    numbers = set()
    for index, schedule in enumerate(("cosine_warmup_with_min_lr", "wsd", "one_cycle")):
        line = [f"scheduler={schedule}", "++callbacks.nonfinite.policy=rollback"]
        value = 0.7412345 + index
        write_run(tmp_path, schedule, line, value, choices={"scheduler": schedule})
        numbers |= {f"{value:.4f}", "12.5"}
    whole = table(read_jobs(tmp_path))
    if how == "plain print":
        out = io.StringIO()
        Console(file=out, width=width).print(whole)
        text = out.getvalue()
    elif how == "dumb":
        text = shown(whole, width, TERM="dumb")
    else:
        text = shown(whole, width, terminal=how == "terminal", COLUMNS=str(width))
    words = re.split(r"[\s=]+", text)
    assert numbers <= set(words)
    assert {"cosine_warmup_with_min_lr", "wsd", "one_cycle"} <= set(words)
    lines = text.splitlines()
    if how in ("terminal", "plain print"):
        assert max(map(len, lines)) <= width
    if how == "pipe":  # has no width: a row is a line
        assert sum("12.5" in line for line in lines) == 3
        assert all("0.7412" in line for line in lines if "cosine_warmup_with_min_lr" in line)


def test_the_path_of_a_log_can_be_copied(tmp_path, monkeypatch, capsys):
    write_run(tmp_path, "x" * 80, ["optimizer=adamw"], code=3)
    monkeypatch.setenv("COLUMNS", "40")
    assert end_sweep(tmp_path)
    assert str(tmp_path / ("x" * 80) / "log.txt") in capsys.readouterr().out
