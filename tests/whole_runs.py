"""What a run of the command line leaves."""

from __future__ import annotations

import torch


def only_run(tmp_path):
    (run_dir,) = (path.parent for path in tmp_path.glob("runs/*/*/config.yaml"))
    return run_dir


def checkpoint(run_dir, name="last"):
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt")  # default: weights_only


def assert_same_parameters(a, b):
    a, b = checkpoint(a)["state_dict"], checkpoint(b)["state_dict"]
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == torch.float64
        assert (a[name] - b[name]).abs().max() <= 1e-10
