"""Two different jobs never share a directory; the same job always has the same one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_optim.sweeps.names import fold, name_jobs
from lit_optim.sweeps.plan import unique_dir

#: Values that sanitizing, upper case, quotes, length and Unicode forms make alike.
VALUES = st.one_of(
    st.text(alphabet="aA-+*/ '\".()1é\u0301ßſKK", max_size=6),
    st.text(max_size=8),
    st.integers(0, 3).map(lambda n: "x" * 140 + "é" * 60 + str(n)),
)
KEYS = st.sampled_from(["++seed", "seed", "optimizer", "++scheduler.expr", "~optimizer.lr", "Seed"])
JOBS = st.lists(
    st.lists(st.tuples(KEYS, VALUES).map("=".join), min_size=1, max_size=4),
    min_size=1,
    max_size=6,
    unique_by=tuple,
)


@given(JOBS)
def test_different_jobs_have_different_directories(jobs):
    names = name_jobs(jobs)
    assert len({fold(name) for name in names}) == len(jobs)
    assert name_jobs(jobs) == names
    for name in names:
        # in .before it may get a counter; no name climbs out of the directory
        assert len(f"{name}-9999".encode()) <= 255
        assert "/" not in name
        assert name.strip(". ")


@given(JOBS, JOBS)
def test_a_job_keeps_its_directory_when_jobs_are_added(first, added):
    existing = dict(zip(name_jobs(first), map(tuple, first), strict=True))
    later = [*first, *(job for job in added if job not in first)]
    names = name_jobs(later, existing)
    for job, name in zip(later, names, strict=True):
        known = [old for old, overrides in existing.items() if overrides == tuple(job)]
        assert known in ([], [name])
    assert len({fold(name) for name in names}) == len(later)
    assert name_jobs(first[::-1], existing) == names[: len(first)][::-1]


@pytest.mark.parametrize(
    "values",
    [
        ("1-0.5*progress", "1-0.5+progress"),
        ("a/b", "a b"),
        ("'a'", "a"),
        ("Net", "net"),
        ("x" * 300, "x" * 299 + "y"),
        ("1", "1."),
    ],
    ids=str,
)
def test_values_that_look_alike_as_file_names(values, tmp_path):
    jobs = [[f"++scheduler.expr={value}", "seed=0"] for value in values]
    names = name_jobs(jobs)
    for name in names:
        (tmp_path / name).mkdir()
    # alone, in a sweep of its own, each has its own directory again
    existing = {name: tuple(job) for name, job in zip(names, jobs, strict=True)}
    assert [name_jobs([job], existing) for job in jobs] == [[name] for name in names]


def test_a_directory_that_is_not_of_the_sweep_is_not_used():
    [name] = name_jobs([["seed=0"]], {"seed=0": None})
    assert name.startswith("seed=0-")
    [name] = name_jobs([["seed=0"]], {"seed=0": ("seed=0", "optimizer=sgd")})
    assert name.startswith("seed=0-")
    assert name_jobs([["seed=0", "n_jobs=2"]], {"other": ("seed=0",)}) == ["other"]


def test_a_job_that_is_listed_twice_has_one_directory():
    assert len(set(name_jobs([["seed=0"], ["seed=0"], ["seed=1"]]))) == 2


@given(
    st.lists(st.sampled_from(["adamw", "sgd", "lion", "muon"]), min_size=2, unique=True),
    st.lists(st.sampled_from([0.1, 0.01, "1-0.5*progress", "x" * 200]), min_size=1, unique=True),
    st.integers(1, 4),
)
def test_batches_of_a_sweep_are_named_as_its_whole(optimizers, lrs, size):
    """As where a sweeper asks for a few trials at a time, which often share something."""
    line = ["data=digits", f"optimizer={','.join(optimizers)}", f"++x.lr={lrs[0]},1e-7", "n_jobs=2"]
    jobs = [
        ["data=digits", f"optimizer={name}", f"++x.lr={lr}", "n_jobs=2"]
        for name in optimizers
        for lr in lrs
    ]
    batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    names = [name for batch in batches for name in name_jobs(batch, line=line)]
    assert names == name_jobs(jobs, line=line)
    assert len({fold(name) for name in names}) == len(jobs)
    assert all(
        name.startswith(f"optimizer={job[1][10:]}") for name, job in zip(names, jobs, strict=True)
    )
    assert not any("digits" in name for name in names)


def test_a_line_that_fixes_everything_names_its_job_by_it():
    assert name_jobs([["data=digits", "seed=0"]], line=["data=digits", "seed=0"]) == [
        "data=digits,seed=0"
    ]


def test_a_large_number_is_not_named_as_a_small_one():
    names = name_jobs([["optimizer.lr=1e+30"], ["optimizer.lr=1e-30"]])
    assert names == ["optimizer.lr=1e+30", "optimizer.lr=1e-30"]


def test_a_directory_is_named_after_what_differs():
    jobs = [
        ["optimizer=adamw", "scheduler=step", "++trainer.max_steps=5", "++seed=0"],
        ["optimizer=sgd", "scheduler=step", "++trainer.max_steps=5", "++seed=1"],
    ]
    assert name_jobs(jobs)[0] == "optimizer=adamw,seed=0"
    assert name_jobs(jobs[:1]) == ["optimizer=adamw,scheduler=step,trainer.max_steps=5,seed=0"]


def test_odd_names_become_directories(tmp_path):
    jobs = [["++data.path='/tmp/a b.txt'"], ["++data.path=/" + "x" * 400], ["++a=[0.9,0.99]"]]
    names = name_jobs(jobs)
    assert names[0] == "data.path=-tmp-a-b.txt"
    assert len(names[1]) < 200
    assert names[2] == "a=[0.9,0.99]"
    for name in names:
        assert unique_dir(tmp_path, name).is_dir()
        assert unique_dir(tmp_path, name).name == f"{name}-2"
