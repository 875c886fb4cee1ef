"""A checkpoint of someone else: it runs nothing, and nothing elsewhere is written or removed."""

from __future__ import annotations

import os

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_optim.checkpoints.files import CheckpointFiles
from lit_optim.checkpoints.saved_paths import keep_own_paths
from lit_optim.errors import UsageError

#: Keys that name a checkpoint.
KEYS = (("branch_from",), ("ckpt", "train=false", "test=true"), ("weights",))
#: By which Hydra and LightningCLI name a class.
CLASS_KEYS = ("_target_", "_class_path", "_instantiator", "class_path", "hparams_type")
#: From the directory of checkpoints to what is not to be touched.
UP = os.path.join("..", "..", "mine")


class Opens:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def kept(directory, state, loaded=None):
    callback = ModelCheckpoint(str(directory))
    keep_own_paths([callback], {callback.state_key: state, "other": 1}, loaded)
    return state


def state_with(path, before):
    return {
        "dirpath": before, "best_model_path": path, "kth_best_model_path": path,
        "last_model_path": path, "best_k_models": {path: torch.tensor(1.0)},
    }  # fmt: skip


def paths_of(state):
    return {state[key] for key in state if key.endswith("model_path")} | set(state["best_k_models"])


ELSEWHERE = [
    "/etc/passwd", "{dir}/../mine", "{dir}/../../mine", "{dir}/sub/../../mine", "{dir}", "{dir}/.",
    "{dir}/..", "../mine", "mine", ".", "..", "/", "s3://bucket/x", "memory://x", "file:///etc/x",
    "~/mine", "{dir}/\0", "{dir}x/mine", "", None, 3, ["a"],
]  # fmt: skip


@pytest.mark.parametrize("path", ELSEWHERE)
def test_a_path_to_elsewhere_is_forgotten(path, tmp_path):
    if isinstance(path, str):
        path = path.format(dir=tmp_path)
    for before in (str(tmp_path), "/nowhere", "", None, 3):
        state = state_with(path, before) if isinstance(path, str | None) else {"last_model_path": 1}
        allowed = {"", str(tmp_path / "passwd"), str(tmp_path / "x")}
        assert paths_of(kept(tmp_path, {"best_k_models": []} | state)) <= allowed | {""}


def test_what_is_in_the_directory_stays(tmp_path):
    for name in ("best.ckpt", "sub/best.ckpt", "..best.ckpt"):
        path = str(tmp_path / name)
        before = state_with(path, str(tmp_path))
        assert kept(tmp_path, dict(before)) == before


def test_a_directory_that_was_moved_keeps_its_best(tmp_path):
    (tmp_path / "best.ckpt").touch()
    state = kept(tmp_path, state_with("/before/best.ckpt", "/before"))
    assert paths_of(state) == {str(tmp_path / "best.ckpt")}
    assert state["dirpath"] == str(tmp_path)
    gone = kept(tmp_path, state_with("/before/gone.ckpt", "/before"))
    assert paths_of(gone) == {""}
    assert gone["dirpath"] == "/before"  # then Lightning takes no score from it


def test_the_best_of_the_run_that_is_branched_from_is_beside_its_checkpoint(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    (there / "best.ckpt").touch()
    state = state_with(str(there / "best.ckpt"), str(there))
    kept(tmp_path / "here", state, there / "last.ckpt")
    assert state["best_model_path"] == str(there / "best.ckpt")
    assert state["best_k_models"] == {}


def test_only_files_are_removed(tmp_path):
    files = CheckpointFiles()
    (tmp_path / "folder" / "x").mkdir(parents=True)
    files.save_checkpoint({}, tmp_path / "a.ckpt")
    for name in ("folder", "folder/..", "a.ckpt", "gone.ckpt"):
        files.remove_checkpoint(str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "x").is_dir()


RESUMED = (
    "data=digits", "model=linear", "trainer.val_check_interval=1", "test=false",
    "++callbacks.every={_target_: lightning.pytorch.callbacks.ModelCheckpoint, "
    "every_n_train_steps: 1}",
)  # fmt: skip


def test_a_resumed_run_believes_no_path_and_no_class(run_here, tmp_path):
    run_here("trainer.max_steps=2", *RESUMED)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    mine = tmp_path / "mine"
    mine.touch()
    attacked = 0
    for state in saved["callbacks"].values():
        if "best_model_path" in state:
            state |= state_with(os.path.join(state["dirpath"], UP), state["dirpath"])
            state["best_model_score"] = torch.tensor(1e9)
            attacked += 1
    assert attacked == 2
    for part in ("hyper_parameters", "datamodule_hyper_parameters"):
        command = {"command": f"touch {tmp_path / 'mark'}"}
        saved[part] = dict.fromkeys(CLASS_KEYS, "os.system") | command
    torch.save(saved, path)
    path.with_name("last.ckpt.sha256").unlink()
    run_here("trainer.max_steps=4", *RESUMED, f"resume={tmp_path / 'run'}", "resume.horizon=extend")
    assert mine.exists()
    assert not (tmp_path / "mark").exists()
    assert torch.load(path, weights_only=True)["global_step"] == 4


def test_a_checkpoint_that_would_run_something_is_refused(run_here, tmp_path):
    """By whichever key it is named, and wherever in it the code is."""
    run_here("trainer.max_steps=1", *RESUMED)
    mark, folder = tmp_path / "mark", tmp_path / "run" / "checkpoints"
    path = folder / "last.ckpt"
    whole = torch.load(path, weights_only=True)
    for file in folder.iterdir():
        file.unlink()
    for part in ("callbacks", "hyper_parameters", "state_dict"):
        torch.save(whole | {part: {"x": Opens(mark)}}, path)
        resumed = [f"resume={tmp_path / 'run'}", "resume.horizon=extend", "trainer.max_steps=2"]
        named = [[f"{key}={path}", *others] for key, *others in KEYS]
        for line in (resumed, *named):
            with pytest.raises(UsageError, match=r"cannot be read|no checkpoint that can be read"):
                run_here(*RESUMED, *line)
            assert not mark.exists()
