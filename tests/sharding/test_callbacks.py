"""Callbacks under sharding: norms, finite weights and averages are those of whole tensors."""

from __future__ import annotations

import json
import os

import pytest
import torch
from lightning.pytorch.loggers import Logger
from torch.testing import assert_close

from tests.sharding.processes import processes
from tests.sharding.products import saved, train


class Told(Logger):
    """Keeps what is logged, in a file of its rank."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place, self.kept = place, []

    name = version = "told"

    def log_metrics(self, metrics, step=None):
        self.kept.append([step, {k: float(v) for k, v in metrics.items()}])

    def log_hyperparams(self, *args, **kwargs):
        pass

    def finalize(self, status):
        with open(self.place, "w", encoding="utf-8") as file:
            json.dump(self.kept, file)


STEPS = ("trainer.max_steps=5", "trainer.gradient_clip_val=0.5", "trainer.log_every_n_steps=1")


def run(size, place, *argv):
    line = ["trainer=cpu"] if size == 1 else ["trainer=fsdp_cpu", f"trainer.devices={size}"]
    results = processes(size).run(told, str(place), *line, "model.width=10", *argv)
    assert all(result == results[0] for result in results[1:])
    return results[0]


def told(place, *argv):
    """Train, and keep what each rank logs; returns the steps, or the error."""
    from unittest.mock import patch

    from lit_optim.runs import build

    logger = Told(f"{place}_{os.environ['RANK']}.json")
    with patch.object(build, "_build_logger", lambda *_: logger):
        result = train(place, "logger=csv", *argv)
    return result.get("error") or result["steps"]


def logged(place):
    with open(f"{place}_0.json", encoding="utf-8") as file:
        return json.load(file)


def test_norms_and_lrs_are_those_of_one_process(tmp_path):
    line = ("callbacks=health", "callbacks.health.every=2", "optimizer=muon", *STEPS)
    for size in (1, 2):
        assert run(size, tmp_path / str(size), *line) == 5
    one, two = logged(tmp_path / "1"), logged(tmp_path / "2")
    assert [step for step, _ in one] == [step for step, _ in two]
    kinds = set()
    for (_, first), (_, second) in zip(one, two, strict=True):
        first, second = (  # a rank logs the loss of its own part of a batch
            {k: v for k, v in values.items() if not k.startswith("train/")}
            for values in (first, second)
        )
        assert second == pytest.approx(first, abs=1e-6)
        kinds |= {key.split("/")[0] for key in first}
    assert {"grad_norm", "update_norm", "param_norm", "clip_fraction", "lr"} <= kinds


@pytest.mark.parametrize("policy", ["skip", "rollback", "stop"])
def test_what_is_not_finite_on_one_rank_is_so_on_all(policy, tmp_path):
    (tmp_path / "broken_batches.py").write_text(BROKEN)
    line = ("optimizer=schedule_free_adamw", "scheduler=none", "trainer.max_steps=6")
    line += ("trainer.val_check_interval=2", f"callbacks.nonfinite.policy={policy}")
    line += ("allow=[broken_batches]", "callbacks.broken._target_=broken_batches.Broken")
    found = processes(2).run(in_place, str(tmp_path), *line)
    if policy == "stop":
        assert [x["error"] for x in found] == ["the loss is not finite at step 4"] * 2
        assert saved(tmp_path / "run")["global_step"] == 2
        return
    assert [x.get("error") for x in found] == [None, None]
    weights = saved(tmp_path / "run")["state_dict"]
    assert all(torch.isfinite(w).all() for w in weights.values())


BROKEN = """
import torch
from lightning.pytorch import Callback


class Broken(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 3 and trainer.global_rank == 1:
            batch[0].fill_(float("nan"))
"""


def in_place(place, *argv):
    import sys

    os.chdir(place)
    sys.path.insert(0, place)
    try:
        return train(f"{place}/run", "trainer=fsdp_cpu", "trainer.devices=2", *argv)
    finally:
        sys.path.remove(place)
        os.chdir("/")


@pytest.mark.parametrize("line", [("wrapper=ema",), ("optimizer=schedule_free_adamw",)], ids=str)
def test_the_average_is_validated_and_saved_as_in_one_process(line, tmp_path):
    line = (*line, "scheduler=none", "trainer.max_steps=5", "trainer.val_check_interval=2")
    one = processes(1).run(train, str(tmp_path / "one"), "trainer=cpu", *line)[0]
    two = processes(2).run(train, str(tmp_path / "two"), "trainer=fsdp_cpu", *line)[0]
    for stage in ("final", "best", "test"):
        assert two[stage] == pytest.approx(one[stage], abs=1e-6)
    first, second = saved(tmp_path / "one"), saved(tmp_path / "two")
    for part in ("state_dict", "training_weights"):
        assert_close(dict(second[part]), dict(first[part]), rtol=0, atol=1e-10)
    average, weights = first["state_dict"], first["training_weights"]
    assert not torch.equal(average["first.weight"], weights["first.weight"])
