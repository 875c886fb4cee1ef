"""Several processes resume to the bit from the middle of an update, and end after the same one."""

from __future__ import annotations

import signal

import pytest
import torch
from torch.testing import assert_close

from tests.sharding.processes import processes
from tests.sharding.stopped import run

KINDS = ["ddp", "fsdp"]


def train(size, kind, place, at=None, ckpt=None, dropout=0.3, every=5):
    return processes(size).run(run, kind, str(place), at, ckpt, dropout, every)


def assert_continues(rest, whole, tolerance):
    for mine, expected in zip(rest, whole, strict=True):
        assert mine["end"] == "finished"
        assert 0 < len(mine["seen"]) < len(expected["seen"])
        assert mine["seen"] == expected["seen"][-len(mine["seen"]) :]
    assert_close(rest[0]["weights"], whole[0]["weights"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_an_unfinished_update(kind, tmp_path):
    whole = train(2, kind, tmp_path)
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)["callbacks"]["Resumable"]
    assert saved["batches"] % 4  # the validation was within an update
    assert saved["gradients" if kind == "fsdp" else "ranks"]
    assert_continues(train(2, kind, tmp_path, ckpt="best.ckpt"), whole, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_another_number_of_processes_continues_the_update(kind, tmp_path):
    whole = train(2, kind, tmp_path, dropout=0.0)
    for size in (1, 3):
        rest = train(size, kind, tmp_path, ckpt="best.ckpt", dropout=0.0)[:1]
        assert len(rest[0]["seen"]) < len(whole[0]["seen"])
        assert_close(rest[0]["weights"], whole[0]["weights"], rtol=0, atol=1e-10)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_to_any_process_ends_all_after_the_update(kind, rank, number, tmp_path):
    whole = train(2, kind, tmp_path / "whole")
    parts = train(2, kind, tmp_path / "parts", (rank, 6, number))
    assert [part["end"] for part in parts] == ["SIGTERMException"] * 2
    assert [part["steps"] for part in parts] == [2, 2]
    assert_continues(train(2, kind, tmp_path / "parts", ckpt="last.ckpt"), whole, 0)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_in_a_validation_ends_it_on_all_processes(kind, rank, number, tmp_path):
    whole = train(2, kind, tmp_path / "whole", every=4)
    at = (rank, 3, number, "on_validation_batch_start")  # the first batch of the second one
    parts = train(2, kind, tmp_path / "parts", at, every=4)
    assert {part["end"] for part in parts} <= {"SIGTERMException", "SystemExit"}
    assert [part["steps"] for part in parts] == [2, 2]
    rest = train(2, kind, tmp_path / "parts", ckpt="last.ckpt", every=4)
    assert_continues(rest, whole, 0)


@pytest.mark.parametrize(
    ("hook", "call"), [("on_train_batch_end", 4 * 6), ("on_train_end", 1)], ids=["batch", "end"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_after_the_last_update_ends_all_processes(kind, hook, call, tmp_path):
    parts = train(2, kind, tmp_path, (1, call, signal.SIGTERM, hook))
    assert [part["end"] for part in parts] == ["SIGTERMException"] * 2
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 6


def warned(path):
    """What a resumed run is warned of, from the only process that warns."""
    from unittest.mock import patch

    from lit_optim.callbacks.resumable import LOG

    with patch.object(LOG, "warning") as warning:
        end = run("ddp", path, None, "last.ckpt", 0.3)["end"]
    return end, [str(call.args[0]) for call in warning.call_args_list]


@pytest.mark.parametrize("batch", [5, 7])
def test_gradients_that_an_error_has_lost_are_told(batch, tmp_path):
    ends = train(2, "ddp", tmp_path, (-1, batch + 1, None))
    assert [end["end"] for end in ends] == ["RuntimeError"] * 2
    first, second = processes(2).run(warned, str(tmp_path))
    assert first[0] == second[0] == "finished"
    assert second[1] == []
    lost = [line for line in first[1] if f"the gradients of {(batch + 1) % 4} of its" in line]
    assert len(lost) == (batch != 7)  # after which the update is finished
