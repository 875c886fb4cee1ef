"""Processes started by another launcher, and variables that an earlier one has left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lit_optim.environment import forget_ranks, is_first
from tests.conftest import ROOT

TRAIN = str(ROOT / "train.py")
LINE = [
    "data=digits", "model=mlp", "trainer=ddp_cpu", "trainer.max_steps=4", "test=false",
    "logger=none", "trainer.enable_progress_bar=false",
]  # fmt: skip


def launched(tmp_path, monkeypatch, command, environments):
    """Run commands in parallel; return the code, the output and the errors of each."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    processes = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | more,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for more in environments
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert not list(place.glob("tmp*"))
    return [(p.returncode, *output) for p, output in zip(processes, outputs, strict=True)]


def assert_one_run(tmp_path):
    [run_dir] = tmp_path.glob("runs/*/*")
    assert (run_dir / "result.json").exists()
    assert (run_dir / "checkpoints" / "last.ckpt").exists()


def test_by_torchrun(tmp_path, monkeypatch):
    torchrun = shutil.which("torchrun", path=Path(sys.executable).parent)
    command = [torchrun, "--nproc-per-node=2", "--standalone", TRAIN, *LINE]
    [(code, out, err)] = launched(tmp_path, monkeypatch, command, [{}])
    assert code == 0, err
    assert out.count("_adamw_cosine_warmup") == 1  # one table
    assert_one_run(tmp_path)


@pytest.mark.slow
def test_by_slurm(tmp_path, monkeypatch):
    job = {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_NTASKS": "2", "SLURM_NNODES": "1",
        "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1",
        "MASTER_PORT": str(20_000 + os.getpid() % 10_000),
    }  # fmt: skip
    tasks = [job | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ("0", "1")]
    ended = launched(tmp_path, monkeypatch, [sys.executable, TRAIN, *LINE], tasks)
    assert [code for code, *_ in ended] == [0, 0], ended
    assert_one_run(tmp_path)


def test_more_processes_than_the_trainer_has(train):
    two = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}
    found = train("-m", "seed=0,1", **two)
    assert "lit-optim: -m starts its runs itself; it cannot be used under torchrun" in found.stderr
    found = train(*LINE, "trainer=cpu", **two)
    assert found.returncode == 2
    assert "lit-optim: the launcher starts 2 processes, but the trainer has 1: " in found.stderr


@pytest.mark.slow
def test_variables_of_an_earlier_launcher_are_ignored(train, tmp_path):
    left = {"LOCAL_RANK": "1", "RANK": "1", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "22"}
    left |= {"NODE_RANK": "1", "GROUP_RANK": "1"}
    done = train(*LINE, timeout=120, **left)
    assert done.returncode == 0, done.stderr
    assert_one_run(tmp_path)
    done = train("optimizer=adamv", **left)
    assert "unknown optimizer 'adamv'" in done.stderr


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, True),  # of nothing
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "2", "NODE_RANK": "1"}, False),  # the second machine
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "4", "RANK": "2"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0"}, False),  # in a shell of SLURM
        ({"SLURM_PROCID": "1"}, False),
    ],
    ids=str,
)
def test_who_is_the_first(monkeypatch, environment, first):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    forget_ranks()
    assert is_first() == first
