"""What a sweep varies, by the files of any launcher, and the short names of its runs."""

from __future__ import annotations

import json

import pytest
import yaml

from lit_optim.reports.run_names import name_runs
from lit_optim.runs.hparams import describe_hparams
from lit_optim.runs.short_names import by_key, find_sweep, read_swept, short_name
from tests.results.searches import write_place, write_search


def write_ours(sweep_dir, line, jobs):
    jobs = {f"job{k}": job for k, job in enumerate(jobs)}
    (sweep_dir / "sweep.json").write_text(json.dumps({"line": line, "jobs": jobs}))


def write_hydras(sweep_dir, line, **sweeper):
    hydra = {"overrides": {"task": line}, "sweeper": sweeper}
    (sweep_dir / "multirun.yaml").write_text(yaml.safe_dump({"hydra": hydra}))


def test_what_differs_between_the_jobs_in_the_typed_order(tmp_path):
    line = ["scheduler=wsd,step", "optimizer=lion", "seed=0,1", "trainer.max_steps=5"]
    jobs = [
        [f"scheduler={scheduler}", "optimizer=lion", f"seed={seed}", "trainer.max_steps=5"]
        for scheduler in ("wsd", "step")
        for seed in (0, 1)
    ]
    write_ours(tmp_path, line, jobs)
    assert read_swept(tmp_path) == {"scheduler": ["wsd", "step"], "seed": ["0", "1"]}
    assert list(read_swept(tmp_path)) == ["scheduler", "seed"]


def test_a_sweep_that_was_gone_on_with_has_the_values_of_all_its_lines(tmp_path):
    write_ours(tmp_path, ["seed=2,3"], [[f"seed={seed}", "model=mlp"] for seed in range(4)])
    assert read_swept(tmp_path) == {"seed": ["0", "1", "2", "3"]}


def test_a_search_varies_what_its_sampler_decides(tmp_path):
    keys = {"optimizer=sgd": ["optimizer.lr"], "optimizer=adamw": ["optimizer.lr", "optimizer.eps"]}
    write_search(tmp_path, keys, {"seeds": [0, 1]})
    write_ours(tmp_path, ["optimizer=sgd,adamw", "optimizer.lr=auto", "search.trials=3"], [])
    swept = {"optimizer": ["sgd", "adamw"], "optimizer.lr": [], "optimizer.eps": []}
    assert read_swept(tmp_path) == swept | {"seed": ["0", "1"]}
    write_search(tmp_path, keys, {"seeds": [0]})
    assert read_swept(tmp_path) == swept
    (tmp_path / "tournament.json").write_text("{}")
    assert read_swept(tmp_path) == swept | {"seed": []}  # other seeds are the final runs'


def test_runs_of_a_search_are_named_by_what_it_varies(tmp_path):
    write_search(tmp_path, {"": ["optimizer.lr"]}, {"seeds": [0, 1]})
    write_ours(tmp_path, ["optimizer.lr=auto"], [])
    runs = [
        write_place(tmp_path, f"trial=00{k}/seed={seed}", 0.5, {"optimizer.lr": f"{lr}"})
        for k, lr in enumerate([0.1, 0.01])
        for seed in (0, 1)
    ]
    names = name_runs(tmp_path, runs)
    assert list(names.values()) == ["lr=0.1 s0", "lr=0.1 s1", "lr=0.01 s0", "lr=0.01 s1"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["optimizer=adamw,lion", "seed=range(0,3)"],
         {"optimizer": ["adamw", "lion"], "seed": ["0", "1", "2"]}),
        (["+optimizer.betas=[0.9,0.95],[0.9,0.99]"],
         {"optimizer.betas": ["[0.9,0.95]", "[0.9,0.99]"]}),
        (["optimizer.lr=tag(log,interval(1e-4,1e-1))", "model=choice(mlp,cnn)"],
         {"optimizer.lr": [], "model": ["mlp", "cnn"]}),
        (["optimizer=adamw", "hydra.launcher.n_jobs=1,2", "n_jobs=2"], {}),
    ],
)  # fmt: skip
def test_lines_of_other_launchers(tmp_path, line, expected):
    write_hydras(tmp_path, line, params=None)
    assert read_swept(tmp_path) == expected


def test_a_search_may_be_configured_in_its_sweeper(tmp_path):
    write_hydras(tmp_path, ["seed=0,1"], params={"optimizer.lr": "interval(0.1, 1)"})
    assert read_swept(tmp_path) == {"optimizer.lr": [], "seed": ["0", "1"]}


@pytest.mark.parametrize("name", ["sweep.json", "multirun.yaml", "search.json"])
@pytest.mark.parametrize(
    "text",
    ["", "[]", "\0", '{"line": 1, "jobs": []}', '{"jobs": {"a": [1]}, "line": ["a=b,c,"]}',
     '{"hydra": [1]}', '{"hydra": {"overrides": {"task": {"a": 1}}, "sweeper": 3}}',
     '{"studies": 3, "settings": []}', '{"studies": [3, {"space": []}], "settings": {"seeds": 1}}',
     '{"line": ["' + "[" * 3000 + '"]}', '{"line": ["seed=0,1", "x=(", "=", "a b"]}'],
)  # fmt: skip
def test_files_of_strangers_raise_nothing(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    is_read = name == "sweep.json" and "seed=0" in text
    assert read_swept(tmp_path) == ({"seed": ["0", "1"]} if is_read else {})


def test_a_range_without_an_end_is_cut(tmp_path):
    write_hydras(tmp_path, ["seed=range(0,1000000000000)"])
    assert len(read_swept(tmp_path)["seed"]) == 1000


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["optimizer=lion", "scheduler=wsd", "seed=1"], "lion wsd s1"),
        (["scheduler=wsd", "optimizer=lion"], "wsd lion"),
        (["optimizer=lion", "optimizer.lr=0.1", "seed=2"], "lion 0.1 s2"),
        (["optimizer.lr=0.1", "seed=2"], "lr=0.1 s2"),
        (["optimizer=lion", "wrapper=none"], "lion wrapper=none"),
        (["+optimizer.weight_decay=0", "schedules.weight_decay=lr"],
         "optimizer.weight_decay=0 schedules.weight_decay=lr"),
        (["model='a b'", "optimizer.betas=[0.9,0.95]"], "a b betas=[0.9,0.95]"),
        ([], ""),
    ],
)  # fmt: skip
def test_a_name_is_what_differs(overrides, name):
    values = by_key(overrides)
    assert short_name(values, [*values, "missing"]) == name


@pytest.mark.parametrize("name", ["sweep.json", "multirun.yaml"])
@pytest.mark.parametrize("depth", ["a", "a/b", "a/b/c"])
def test_the_sweep_of_a_run_is_found(tmp_path, name, depth):
    assert find_sweep(tmp_path / depth) is None
    (tmp_path / name).touch()
    assert find_sweep(tmp_path / depth) == tmp_path


def test_numbered_directories_of_hydras_launchers_get_names(tmp_path):
    write_hydras(tmp_path, ["optimizer=adamw,lion", "seed=0,1", "trainer.max_steps=5"])
    runs = []
    for k, (optimizer, seed) in enumerate([("adamw", 0), ("lion", 1), ("../x", 2)]):
        (tmp_path / str(k) / ".hydra").mkdir(parents=True)
        lines = [f"optimizer={optimizer}", f"seed={seed}", "trainer.max_steps=5"]
        (tmp_path / str(k) / ".hydra" / "overrides.yaml").write_text(json.dumps(lines))
        runs.append(tmp_path / str(k))
    runs.append(tmp_path / "7")  # nothing is known of it
    (tmp_path / "7").mkdir()
    assert list(name_runs(tmp_path, runs).values()) == ["adamw s0", "lion s1", "..-x s2", "7"]


def group(tmp_path, seed, lr=0.1, data_seed=None, typed=()):
    plain = {
        "monitor": "val/loss",
        "seed": seed,
        "optimizer": {"_target_": "x.AdamW", "lr": lr},
        "data": {"seed": seed if data_seed is None else data_seed},
    }
    choices = {"optimizer": "adamw", "scheduler": "wsd"}
    return describe_hparams(plain, choices, [f"seed={seed}", *typed], tmp_path, True).group


def test_runs_that_differ_in_their_seed_only_are_one_group(tmp_path):
    assert group(tmp_path, 0) == group(tmp_path, 1)  # the seed of the data follows
    assert group(tmp_path, 0).startswith("adamw wsd ")
    others = [
        group(tmp_path, 0, lr=0.2),
        group(tmp_path, 0, data_seed=3),
        group(tmp_path, 4, typed=["data.seed=4"]),
    ]
    assert len({group(tmp_path, 0), *others}) == 4


def test_in_a_sweep_a_column_has_numbers_or_what_was_typed(tmp_path):
    write_ours(tmp_path, [], [["seed=0", "optimizer.lr=0.1", "optimizer=sgd"],
                              ["seed=1", "optimizer.lr=null", "optimizer=adamw"]])  # fmt: skip
    plain = {"monitor": "val/loss", "seed": 1, "optimizer": {"lr": None}, "batch": 3}
    typed = ["seed=1", "optimizer.lr=null", "optimizer=adamw", "batch=3"]
    found = describe_hparams(plain, {"optimizer": "adamw"}, typed, tmp_path / "job1", True)
    assert found.shown == {"seed": "0,1", "optimizer.lr": "null", "optimizer": "adamw"}
    assert found.values["seed"] == 1
    assert found.values["batch"] == 3
    assert found.domains["optimizer.lr"] == ["0.1", "null"]
    assert found.is_in_sweep
