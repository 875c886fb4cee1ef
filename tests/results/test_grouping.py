"""A setting holds the runs that differ only in their seed, whatever was typed."""

from __future__ import annotations

import io
import itertools
import re

import pytest
from rich.console import Console

from lit_optim.errors import UsageError
from lit_optim.results.comparing import compare
from lit_optim.results.grouping import group_runs
from lit_optim.results.reading import read_runs
from lit_optim.results.table import table
from tests.results.directories import BROKEN, write_run


def group(top):
    """The columns, and for the values in them how many runs there are."""
    columns, groups = group_runs(read_runs([top]).runs)
    cells = [tuple(values.get(key, "") for key in columns) for values, _ in groups]
    return columns, dict(zip(cells, (len(runs) for _, runs in groups), strict=True))


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
    columns, found = group(tmp_path)
    assert columns == ["optimizer", "scheduler"]
    assert found == {
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
    columns, found = group(tmp_path)
    assert set(columns) == {"optimizer", "optimizer.lr", "data"}
    assert {frozenset(cells) for cells in found} == {
        frozenset(cells)
        for cells in (("adamw", "0.01", "mnist1d"), ("sgd", "0.1", "mnist1d"),
                      ("adamw", "0.01", "digits"))
    }  # fmt: skip


def test_a_value_that_was_not_typed_distinguishes_rows(tmp_path):
    write_run(tmp_path, "a", ["++seed=0"], settings={"model.width": 100})
    write_run(tmp_path, "b", ["++seed=0"], settings={"model.width": 200})
    columns, found = group(tmp_path)
    assert columns == ["model.width"]
    assert list(found) == [("100",), ("200",)]


def test_equal_values_are_one_row_however_they_were_typed(tmp_path):
    write_run(tmp_path, "a", ["++optimizer.lr=1e-2", "++seed=0"])
    write_run(tmp_path, "b", ["++optimizer.lr=0.01", "++seed=1"], settings={"seed": 1})
    write_run(tmp_path, "c", ["++seed=2", "++n_jobs=2"], settings={"seed": 2, "data.seed": 2})
    _, found = group(tmp_path)
    (tmp_path / "b" / "asked.json").write_text('{"seed": 1, "data.seed": 1, "optimizer.lr": 0.01}')
    _, found = group(tmp_path)
    assert list(found.values()) == [3]


@pytest.mark.parametrize("group_of", ["experiment", "preset", "debug", "batch"])
def test_a_choice_that_only_sets_values_of_others_makes_no_difference(tmp_path, group_of):
    for optimizer in ("sgd", "adamw"):
        name, lr = {"optimizer": optimizer}, {"optimizer.lr": 0.1}
        plain = {group_of: "none"}
        seeds(tmp_path, optimizer, [f"optimizer={optimizer}"], choices=name | plain, settings=lr)
    for seed in (2, 3):
        write_run(
            tmp_path, f"more-{seed}", [f"{group_of}=found", f"++seed={seed}"],
            choices={"optimizer": "sgd", group_of: "found"},
            settings={"optimizer.lr": 0.1, "seed": seed, "data.seed": seed},
        )  # fmt: skip
    columns, found = group(tmp_path)
    assert (columns, found) == (["optimizer"], {("sgd",): 4, ("adamw",): 2})


def test_a_swept_experiment_is_the_column(tmp_path):
    for name, width in (("small", 10), ("large", 20)):
        write_run(tmp_path, name, [f"experiment={name}"], choices={"experiment": name},
                  settings={"model.width": width, "model.depth": width})  # fmt: skip
    assert group(tmp_path) == (["experiment"], {("large",): 1, ("small",): 1})


def test_a_failed_run_belongs_to_the_row_of_its_values(tmp_path):
    seeds(tmp_path, "a", ["optimizer=adamw"])
    seeds(tmp_path, "b", ["optimizer=sgd"], choices={"optimizer": "sgd"})
    write_run(tmp_path, "a-2", ["optimizer=adamw", "++seed=2"], code=1)
    (tmp_path / "a-2" / "asked.json").unlink()  # of an older version, which failed early
    (tmp_path / "a-2" / "job.json").write_text(
        '{"overrides": ["optimizer=adamw", "++seed=2"], "exit_code": 1}'
    )
    _, found = group(tmp_path)
    assert found == {("adamw",): 3, ("sgd",): 2}


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_invalid_records_are_left_out_and_told(tmp_path, text):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "job.json").write_text(text, "latin-1")
    with pytest.raises(UsageError, match=r"no run can be read: left out: .*foreign.job\.json"):
        read_runs([tmp_path])
    write_run(tmp_path, "good", ["optimizer=adamw"])
    found = read_runs([tmp_path])
    assert [run.directory.name for run in found.runs] == ["good"]
    assert len(found.notes) == 1
    write_run(tmp_path, "other", ["optimizer=adamw"])
    (tmp_path / "other" / "result.json").write_text(text, "latin-1")
    (tmp_path / "other" / "asked.json").write_text(text, "latin-1")
    found = read_runs([tmp_path])
    assert sum(row.best.value.count for row in compare(found.runs, "t").rows) == 1
    assert any("other/result.json" in note.replace("\\", "/") for note in found.notes)


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
        numbers |= {f"{value:.4g}", "12"}
    whole = table(compare(read_runs([tmp_path]).runs, "t"))
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
        assert sum("12" in line.split() for line in lines) == 3
        assert all("0.7412" in line for line in lines if "cosine_warmup_with_min_lr" in line)
