"""Unexpected files in a sweep's directory neither stop nor block the sweep."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from lit_optim.errors import UsageError
from lit_optim.results.comparing import compare_all
from lit_optim.results.reading import read_result, read_runs
from lit_optim.results.spreadsheet import write_runs
from lit_optim.results.table import print_report
from lit_optim.runs.layout import (
    FINGERPRINT,
    JOB,
    LOG,
    RESULT,
    SWEEP,
)
from lit_optim.runs.locks import is_held, read_holder
from lit_optim.runs.resume import find_resumable, read_fingerprint
from lit_optim.sweeps.ending import last_line
from lit_optim.sweeps.plan import make_room
from lit_optim.sweeps.records import existing_jobs, overrides_of
from tests.odd_files import KINDS, within_seconds

GOOD = {
    JOB: {"overrides": ["optimizer=sgd"], "exit_code": 0, "seconds": 1, "choices": {}},
    RESULT: {
        "choices": {"optimizer": "sgd"}, "seed": 0, "monitor": "val/loss", "mode": "min",
        "run_dir": "x", "steps": 1, "seconds": 1.0,
        "final": {"val/loss": 1.0}, "best": {"val/loss": 0.5}, "test": {"test/loss": 2.0},
    },
    FINGERPRINT: {"optimizer.lr": 0.1, "seed": 0},
}  # fmt: skip
NAMES = (*GOOD, LOG, ".lock")


def a_sweep(where):
    for job in ("good", "other"):
        run_dir = where / job
        run_dir.mkdir(parents=True)
        for name, content in GOOD.items():
            (run_dir / name).write_text(json.dumps(content))
        (run_dir / LOG).write_text("a\nlast\n")
        (run_dir / ".lock").touch()
    return where


def read_all(sweep_dir):
    """Read a sweep's directory in every way: as a resumed sweep and as its table."""
    runs = read_runs([sweep_dir]).runs
    for report in compare_all(runs, "sweep"):
        print_report(report, Console(file=open("/dev/null", "w")))  # noqa: SIM115
        write_runs(report, sweep_dir / "x.csv")
    existing_jobs(sweep_dir)
    for run_dir in sorted(sweep_dir.iterdir()):
        if run_dir.is_dir():
            last_line(run_dir / LOG)
            is_held(run_dir)
            read_holder(run_dir)
            overrides_of(run_dir)
            read_result(run_dir)
            read_fingerprint(run_dir)
    assert any(run.directory.name == "good" for run in runs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_file_stops_it(tmp_path, name, kind):
    sweep_dir = a_sweep(tmp_path / "sweep")
    (sweep_dir / "other" / name).unlink()
    KINDS[kind](sweep_dir / "other" / name)
    assert within_seconds(lambda: read_all(sweep_dir)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_record_of_the_sweep_itself_stops_it(tmp_path, kind):
    sweep_dir = a_sweep(tmp_path / "sweep")
    KINDS[kind](sweep_dir / SWEEP)
    assert within_seconds(lambda: read_all(sweep_dir)) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([10**400, -1, "a=b", "\x1b[31m"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)  # fmt: skip


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_no_value_in_a_record_stops_it(tmp_path_factory, name, data):
    sweep_dir = a_sweep(tmp_path_factory.mktemp("s") / "sweep")
    good = GOOD[name]
    key = data.draw(st.sampled_from([None, *good]))
    value = data.draw(values)
    content = value if key is None else good | {key: value}
    (sweep_dir / "other" / name).write_text(json.dumps(content))
    read_all(sweep_dir)


@settings(max_examples=50, deadline=None)
@given(values)
def test_no_typed_value_breaks_the_search_for_a_run(tmp_path_factory, value):
    runs = tmp_path_factory.mktemp("runs")
    (runs / "a").mkdir()
    (runs / "a" / FINGERPRINT).write_text(json.dumps(value))
    plain = {"resume": {"from": "auto", "horizon": "error", "override": []}, "seed": 1}
    assert find_resumable(plain, runs).run_dir is None
    plain["resume"]["from"] = str(runs / "a")
    with pytest.raises(UsageError):
        find_resumable(plain, runs)


@pytest.mark.parametrize("name", [LOG, FINGERPRINT, JOB])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_file_is_moved_out_of_the_way(tmp_path, name, kind):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    for make in (KINDS[kind], lambda path: path.symlink_to(outside)):
        make(tmp_path / name)
        assert within_seconds(lambda: make_room(tmp_path / name)) is None
        assert not (tmp_path / name).is_symlink()
        assert not (tmp_path / name).exists() or (tmp_path / name).is_file()
        (tmp_path / name).unlink(missing_ok=True)
    assert outside.read_text() == "mine"
