"""What the program wrote before its modules moved (tests/before) is resumed and read today.

Each test starts a process, as the user of such a directory would: what is tested is the way from
the files through the command line to the weights. `weights.json` holds what the old code ended
with after it had resumed the same directories.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import torch

from tests.sampling import sample

BEFORE = Path(__file__).parent / "before"
WEIGHTS = json.loads((BEFORE / "weights.json").read_text("utf-8"))


@pytest.fixture
def directories(tmp_path):
    """Runs that were terminated in the middle, and a sweep of which one job is unfinished."""
    with tarfile.open(BEFORE / "runs.tar.gz") as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.parametrize("name", sample(WEIGHTS, 4))
def test_a_run_from_before_is_resumed(train, directories, name):
    expected = WEIGHTS[name]
    before = torch.load(directories / f"runs/{name}/checkpoints/last.ckpt", weights_only=True)
    done = train(f"resume=runs/{name}")
    assert done.returncode == 0, done.stderr
    after = torch.load(directories / f"runs/{name}/checkpoints/last.ckpt", weights_only=True)
    assert before["global_step"] < after["global_step"] == expected["global_step"]
    lr = after["optimizer_states"][0]["param_groups"][0]["lr"]
    assert lr == pytest.approx(expected["lr"], rel=1e-6, abs=1e-12)
    for key, norm in expected["norms"].items():
        weight = after["state_dict"][key]
        assert float(weight.double().norm()) == pytest.approx(norm, rel=2e-3), key
        first = [float(x) for x in weight.flatten()[:3]]
        assert first == pytest.approx(expected["first"][key], rel=2e-3, abs=1e-3), key


def test_a_sweep_from_before_is_finished(train, directories):
    kept = directories / "sweeps/one/optimizer=sgd/result.json"
    written = kept.stat().st_mtime_ns
    done = train("-m", "resume=sweeps/one")
    assert done.returncode == 0, done.stderr
    assert kept.stat().st_mtime_ns == written  # the finished job is not run again
    result = json.loads((directories / "sweeps/one/optimizer=adamw/result.json").read_text())
    assert result["final"]["val/acc"] == pytest.approx(0.4444, abs=1e-3)
    for line in ("adamw", "sgd"):
        assert line in done.stdout
