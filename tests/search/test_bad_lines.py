"""A line of a search with a mistake in it is reported in one line, before anything runs."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import lit_optim.search.checking as checking
import lit_optim.search.storage_urls as storage_urls
from lit_optim.command_line.combinations import compose_combinations
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.errors import UsageError
from lit_optim.runs.layout import SWEEP
from lit_optim.search.record import write_search
from lit_optim.search.studies import plan_search
from tests.conftest import ROOT

DOCS = ROOT / "docs" / "search.md"
LR = "optimizer.lr=auto"
OK = f"-m {LR} search.trials=3"
INTERVAL = "optimizer.lr=interval(1e-4,1)"
STORAGE = f"{OK} search.storage="
SPACE = "search.trials=3 search.space"
BESIDE = f"{OK} search.space"

#: Bad line -> answer; the whole answer where it ends with a dot, which it has not.
TABLE = {
    # no search, or no sweep
    LR: f"{LR} is only for a search; add -m search.trials=12.",
    INTERVAL: f"{INTERVAL} is only for a search; add -m search.trials=12.",
    f"{LR} search.trials=3": f"{LR} is only for a search; add -m search.trials=12.",
    "search.trials=3": "search.trials=3 does nothing without -m.",
    "search=default": "search=default does nothing without -m.",
    f"-m {LR}": f"{LR} is only for a search; add search.trials=12.",
    f"-m {INTERVAL}": f"{INTERVAL} is only for a search; add search.trials=12, or list its",
    "-m search=default optimizer=adamw,sgd": "search=default does nothing without search.trials=",
    "-m search.sampler=tpe seed=1,2": "search.sampler=tpe does nothing without search.trials=",
    "-m hydra/sweeper=search seed=1,2": "hydra/sweeper=search does nothing without search.trials=",
    f"{OK} hydra/sweeper=basic": "hydra/sweeper=basic: a search uses its own sweeper; leave it",
    f"{OK} hydra/sweeper=search": "hydra/sweeper=search: a search uses its own sweeper",
    # keys
    f"-m search.trial=3 {LR}": "unknown key search.trial; did you mean search.trials?.",
    f"-m searh.trials=3 {LR}": "unknown key searh; did you mean search?.",
    f"-m n_trials=3 {LR}": "unknown key n_trials; did you mean search.trials?.",
    f"{OK} search.samplr=tpe": "unknown key search.samplr; did you mean search.sampler?.",
    f"{OK} search=mine": "unknown search 'mine'; it is one of default, none.",
    # settings
    f"-m {LR} search.trials=0": "search.trials must be a whole number in [1, 10000], got 0.",
    f"-m {LR} search.trials=-1": "search.trials must be a whole number in [1, 10000], got -1.",
    f"-m {LR} search.trials=1.5": "search.trials must be a whole number in [1, 10000], got 1.5.",
    f"-m {LR} search.trials=1000000000": "must be a whole number in [1, 10000], got 1000000000.",
    f"-m {LR} search.trials=ten": "search.trials must be a whole number in [1, 10000], got 'ten'.",
    f"-m {LR} search.trials=3,4": "search.trials=3,4 applies to all runs, so it cannot be swept.",
    f"-m {LR} optimizer=adamw,sgd search.trials=9999": "asks for 19,998 runs (studies: 2, trials",
    f"{OK} search.timeout=0": "search.timeout must be a number > 0 or null, got 0.",
    f"{OK} search.timeout=-5": "search.timeout must be a number > 0 or null, got -5.",
    f"{OK} search.timeout=1h": "search.timeout must be a number > 0 or null, got '1h'.",
    f"{OK} search.sampler=bayes": "must be one of auto, grid, qmc, tpe, gp, random, got 'bayes'.",
    f"{OK} search.pruner=asha": "must be one of none, median, percentile, hyperband, got 'asha'.",
    f"{OK} search.at=last": "search.at must be one of final, best, got 'last'.",
    f"{OK} search.seeds=[]": "search.seeds must have a seed, got [].",
    f"{OK} search.seeds=[1,2,1]": "search.seeds has a seed twice, got [1, 2, 1].",
    f"{OK} search.seeds=3": "search.seeds must be a list of whole numbers in [0, 4294967295], got",
    f"{OK} search.seeds=[-1]": "search.seeds must be a list of whole numbers in [0, 4294967295]",
    f"{OK} search.seeds=0,1": "it cannot be swept; use search.seeds=[0,1].",
    f"{OK} seed=1,2": "seed=1,2: the seeds of a trial are one setting; use search.seeds=[1,2].",
    f"{OK} 'seed=choice(1,2)'": "the seeds of a trial are one setting; use search.seeds=",
    f"{OK} search.metric=val/odd": "must know whether a higher val/odd is better; set mode=max or",
    f"{OK} search.metric=3": "search.metric must be text or null, got 3.",
    f"{OK} monitor=val/odd": "must know whether a higher val/odd is better; set mode=max or",
    f"{OK} n_jobs=0": "n_jobs must be a whole number > 0, got 0.",
    f"{OK} 'n_jobs=choice(1,2)'": "n_jobs=choice(1,2) is not of a single run",
    # ranges
    "-m search.trials=3": "nothing is searched; use optimizer.lr=auto, KEY=interval",
    "-m search.trials=3 optimizer=adamw,sgd": "nothing of optimizer=adamw is searched; use",
    "-m 'optimizer.lr=interval(1,0.1)' search.trials=3": "the first end must be below the second.",
    "-m 'optimizer.lr=interval(1,1)' search.trials=3": "both ends are 1, so there is nothing to",
    "-m 'optimizer.lr=tag(log,interval(0,1))' search.trials=3": "both ends must be > 0.",
    "-m 'optimizer.lr=tag(exp,interval(1,2))' search.trials=3": "unknown tag exp; an",
    "-m 'optimizer.lr=tag(log,choice(1,2))' search.trials=3": "unknown tag log; a choice",
    "-m 'optimizer.lr=interval(-1,1)' search.trials=3": "got -1.0, an end of interval(-1,1).",
    "-m 'optimizer.lr=interval(1e400,1)' search.trials=3": "both ends must be finite numbers.",
    "-m 'optimizer.lr=int(interval(1,8))' search.trials=3": "optimizer.lr is not a whole number",
    "-m 'optimizer.lr=int(interval(1e-4,1e-1))' search.trials=3": "both ends are 0, so there is",
    "-m 'data.batch_size=interval(8,16)' search.trials=3": "use int(interval(8,16)).",
    "-m 'optimizer.lr=choice(0.1)' search.trials=3": "a choice needs two values or more.",
    "-m 'optimizer.lr=choice(0.1,1e-1)' search.trials=3": "has 0.1 twice.",
    "-m 'optimizer.lr=choice(0.1,big)' search.trials=3": "got 'big', one of choice(0.1,big).",
    "-m optimizer=choice(adamw,sdg) search.trials=3": "unknown optimizer 'sdg'; did you mean sgd?",
    "-m optimizer=interval(0,1) search.trials=3": "optimizer=interval(0,1) is for a search",
    f"{OK} optimizer=adamw,sgd optimizer.momentum=interval(0,1)": "(in optimizer=adamw)",
    f"{OK} optimizer.lr=0.1": f"optimizer.lr=0.1 and {LR} contradict each other.",
    "-m optimizer=adamw,sgd optimizer.lr=0.1 search.trials=3": "optimizer.lr=0.1 is fixed, and no",
    f"{OK} optimizer=adamw,adamw": "optimizer=adamw,adamw: has 'adamw' twice.",
    f"{OK} optimizer.eps=1e-8,0.00000001": "has 1e-08 twice.",
    f"{OK} optimizer=custom": "optimizer._target_: must be given, such as optimizer._target_=y",
    f"{OK} model=cnn,custom": "model._target_: must be given, such as model._target_=y",
    "-m tournament=default optimizer=adamw,custom": "optimizer._target_: must be given, such",
    "-m tournament=default optimizer=adamw,sgd tournament.trials=20000": (
        "tournament.trials must be a whole number in [1, 10000], got 20000."
    ),
    "-m tournament=default optimizer=adamw,sgd tournament.foo=1": "tournament.foo; it has trials,",
    "-m tournament=default optimizer=adamw,sgd tournament.seed=[1]": "you mean tournament.seeds",
    "-m tournament=default optimizer=adamw,sgd optimizer.lr=1e-3,1e-2": "a tournament searches",
    # auto
    "-m optimizer.weight_decay=auto search.trials=3": "auto is for optimizer.lr; for another key",
    f"-m optimizer=choice(adamw,sgd) {LR} search.trials=3": "each optimizer has its own range",
    f"{OK} optimizer=custom optimizer._target_=torch.optim.SGD": (
        "SGD declares no lr_range; use optimizer.lr=tag(log,interval(1e-4,1e-1))."
    ),
    f"{OK} optimizer=adafactor_hf": "AdafactorHF takes an lr only with optimizer.relative_step=fal",
    "-m optimizer.lr=auto,0.1 search.trials=3": "auto is a range and cannot be combined",
    # space
    f"-m {SPACE}=lr": "search.space must be a mapping of keys to auto, {interval: ",
    f"-m {SPACE}.optimizer.lr=3": "search.space.optimizer.lr must be auto, {interval: [low, high]}",
    f"-m {SPACE}.optimizer.eps=auto": "search.space.optimizer.eps: auto is for optimizer.lr; for",
    f"{BESIDE}.optimizer.eps={{interval:[1,0]}}": "the first end must be below the second.",
    f"{BESIDE}.optimizer.eps={{interval:[0,x]}}": "both ends must be finite numbers, got",
    f"{BESIDE}.optimizer.eps={{interval:[0,1],lg:true}}": "must be auto, {interval: [low",
    f"{BESIDE}.optimizer.foo={{interval:[0,1]}}": "unknown key optimizer.foo (AdamW takes",
    f"{BESIDE}.seed={{choice:[0,1]}}": "search.space: seed is the same in all runs of a",
    f"{BESIDE}.n_jobs={{choice:[1,2]}}": "search.space: n_jobs is the same in all runs of",
    f"{BESIDE}.scheduler={{choice:[linear,cosin]}}": "unknown scheduler 'cosin'; did you",
    f"{BESIDE}.by_optimizer=3": "search.space.by_optimizer must be a mapping of keys, got 3",
    f"{BESIDE}.by_optimizer.adamv.eps={{choice:[0,1]}}": "unknown optimizer adamv; did you",
    f"{BESIDE}.by_optimizer.sgd.momentum={{interval:[0,1]}}": "no study has that optimizer.",
    f"-m optimizer=choice(adamw,sgd) {SPACE}.by_optimizer.sgd.momentum={{interval:[0,0.9]}}": (
        "optimizer=a,b makes a study for each."
    ),
    f"-m optimizer.eps=1e-8,1e-7 {LR} {SPACE}.optimizer.eps={{interval:[0.1,1]}}": (
        "optimizer.eps=1e-8,1e-7 and search.space.optimizer.eps={interval:[0.1,1]} contradict each"
    ),
    # grids, storages, launchers, runs without a value
    "-m optimizer.amsgrad=choice(true,false) 'optimizer.eps=choice(1e-8,1e-7)' search.sampler=grid "
    "search.trials=3": "needs 4 trials or more, search.trials is 3",
    f"{STORAGE}study.db": "search.storage must be sqlite:////DIR/study.db, journal:/DIR/study.log,",
    f"{STORAGE}postgres://host/db": "got postgres://host/db; did you mean postgresql?.",
    f"{STORAGE}postgresql://host": "must have the form postgresql://HOST/DATABASE.",
    f"{STORAGE}postgresql://me:secret@host/db": "=postgresql://...@host/db: leave the password",
    f"{STORAGE}postgresql://me:se/cr?et@host/db": "=postgresql://...@host/db: leave the password",
    f"{STORAGE}postgresql://host/db?password=secret": "=postgresql://...@host/db: leave the passw",
    f"{STORAGE}sqlite:///study.db": "each process may be in another directory; use sqlite:////",
    f"{STORAGE}sqlite:///:memory:": "must name a file, as in sqlite:////DIR/study.db.",
    f"{STORAGE}journal:study.log": "each process may be in another directory; use journal:/",
    f"{STORAGE}journal:/no/such/place/study.log": "no such directory: /no/such/place.",
    f"{STORAGE}mysql+odbc://host/db": "unknown driver odbc; one of pymysql, mysqldb",
    f"{STORAGE}grpc://host": "must have the form grpc://HOST:PORT.",
    f"{STORAGE}grpc://host:99999": "must have the form grpc://HOST:PORT.",
    f"{OK} hydra/launcher=submitit_slurm": "finds no SLURM here: there is no srun",
    f"{OK} debug=fast": "trainer.fast_dev_run (debug=fast) leaves no results to search by.",
    f"{OK} train=false ckpt=best.ckpt": "train=false leaves nothing to search for; leave it out.",
    f"{OK} trainer.limit_val_batches=0": "but with trainer.limit_val_batches=0 there is none.",
}  # fmt: skip


def answer(line: str) -> str:
    had_optuna = "optuna" in sys.modules
    with pytest.raises(UsageError) as refused:
        prepare_command_line(shlex.split(line))
    text = str(refused.value)
    assert "\n" not in text
    assert had_optuna or "optuna" not in sys.modules
    return text


#: A fair sample of them, for each costs a quarter of a second.
SAMPLE = list(TABLE)[::6]
CASES = [line if line in SAMPLE else pytest.param(line, marks=pytest.mark.slow) for line in TABLE]


@pytest.mark.parametrize("line", CASES)
def test_a_mistake_is_one_line(line):
    said, told = TABLE[line], answer(line)
    if said.endswith("."):
        assert told.endswith(said[:-1]), told
    assert said.removesuffix(".") in told


def documented() -> dict[str, str]:
    table = DOCS.read_text().partition("| Line | Message |\n")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `(.*)` \| (.*) \|$", table, re.MULTILINE))


def test_the_table_of_the_page_is_what_is_answered():
    rows = documented()
    assert len(rows) >= 20
    for line, told in rows.items():
        assert answer(line) == told, line


@pytest.fixture
def resumable(tmp_path):
    """The directories of a search with three trials, and of a plain sweep."""
    line = ["optimizer=adamw,sgd", LR, "search.trials=3"]
    search, plain = tmp_path / "search", tmp_path / "plain"
    for place, typed in ((search, line), (plain, ["optimizer=adamw,sgd"])):
        place.mkdir()
        (place / SWEEP).write_text(json.dumps({"line": typed, "jobs": {}}))
    write_search(plan_search(line), search)
    for number in range(3):
        (search / "optimizer=sgd" / f"trial={number:03}").mkdir(parents=True)
    return search, plain


@pytest.mark.parametrize(
    ("which", "line", "said"),
    [
        (0, "search.trials=2", "search.trials=2 is fewer than the 3 trials that"),
        (
            0,
            "optimizer.lr=0.1 search.trials=5",
            "optimizer.lr=0.1: the search in {} samples optimizer.lr, which cannot be fixed when "
            "it is resumed; leave it out, or begin another search.",
        ),
        (0, "optimizer.lr=1e-3,1e-2 search.trials=5", "optimizer.lr=1e-3,1e-2: the search in"),
        (0, "search.trials=null", "is the directory of a search; add search.trials=..."),
        (0, "optimizer=adamw optimizer.lr=auto", "has optimizer=adamw, which this line has not"),
        (0, "optimizer=adamw,lion optimizer.lr=auto", "has optimizer=sgd, which this line has not"),
        (1, f"{LR} search.trials=3", "is a plain sweep, and this line is a search"),
    ],
)
def test_a_search_goes_on_as_what_it_was(resumable, which, line, said):
    said = said.format(resumable[which])
    assert said in answer(f"-m resume={resumable[which]} {line}") + "."


def test_a_search_may_grow(resumable):
    line = f"-m resume={resumable[0]} optimizer=adamw,sgd,lion optimizer.lr=auto search.trials=5"
    prepared = prepare_command_line(shlex.split(line))
    assert "hydra/sweeper=search" in prepared.argv
    prepared.lock.close()


def test_what_is_not_installed_is_named(monkeypatch):
    find = checking.find_spec
    line = f"{OK} search.sampler=gp"
    for module, said in {
        "scipy": "search.sampler=gp needs scipy",
        "optuna": "needs Optuna",
    }.items():
        monkeypatch.setattr(
            checking, "find_spec", lambda name, gone=module: None if name == gone else find(name)
        )
        told = answer(line)
        assert said in told
        assert told.endswith("python -m pip install 'lit-optim[search]'")
    monkeypatch.setattr(checking, "find_spec", find)
    monkeypatch.setattr(checking, "version", lambda name: "3.6.1")
    assert "needs Optuna 4 or 5, and 3.6.1 is installed" in answer(line)
    monkeypatch.setattr(checking, "version", importlib.metadata.version)
    monkeypatch.setattr(storage_urls, "find_spec", lambda name: None)
    assert answer(f"{STORAGE}postgresql://host/db").endswith("pip install 'psycopg[binary]'")


@pytest.mark.parametrize("line", [LR, "search.trials=3", "tournament=default"])
def test_other_commands_take_no_search(line):
    with pytest.raises(UsageError, match=f"^{re.escape(line)} is (only )?for"):
        list(compose_combinations([line]))


def test_a_directory_that_is_new_stays_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer(f"{OK} search.sampler=bayes")
    assert list(Path.cwd().iterdir()) == []
