"""A directory that someone else has made has no link by which a run would write elsewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.check import to_plain
from lit_optim.config.composing import compose_config
from lit_optim.errors import UsageError
from lit_optim.runs.resume import check_links, write_fingerprint

#: What a run writes, and one more directory of a logger.
WRITTEN = [".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra", "config.yaml", "checkpoints",
           "checkpoints/last.ckpt", "result.json", "run.json", "asked.json", "log.txt", ".lock",
           "tensorboard", "csv/version_0/metrics.csv", "job.json", "any/thing"]  # fmt: skip


def a_run_with_links(top, is_sweep):
    """A run, or a sweep of one; with a link that leads to another place in it."""
    run_dir = top / "job" if is_sweep else top
    (run_dir / ".hydra").mkdir(parents=True)
    (run_dir / "checkpoints").mkdir()
    (run_dir / "checkpoints" / "last.ckpt").write_bytes(b"x")
    (run_dir / ".hydra" / "overrides.yaml").write_text("[]")
    if is_sweep:
        (top / "sweep.json").write_text('{"line": ["seed=0"]}')
    (run_dir / "inner").symlink_to("checkpoints")
    return run_dir


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("is_sweep", [False, True])
@pytest.mark.parametrize("kind", ["absolute", "relative", "dangling", "by another link"])
def test_no_link_leads_out_of_a_run(tmp_path, name, is_sweep, kind):
    (tmp_path / "outside").mkdir()
    top = tmp_path / "run"
    run_dir = a_run_with_links(top, is_sweep)
    (tmp_path / "linked").symlink_to(top)
    check_links(top)
    check_links(tmp_path / "linked")
    path = run_dir / name
    target = tmp_path / "outside" / path.name
    path.parent.mkdir(exist_ok=True, parents=True)
    if path.exists():
        path.replace(target)
    if kind == "dangling":
        target = tmp_path / "outside" / "missing"
    elif kind == "by another link":
        (run_dir / "between").symlink_to(target)
        target = run_dir / "between"
    elif kind == "relative":
        target = Path(os.path.relpath(target, path.parent))
    path.symlink_to(target)
    for where in (top, tmp_path / "linked"):
        with pytest.raises(UsageError, match="is a link out of the directory"):
            check_links(where)


@pytest.mark.parametrize("argv", [["resume={}"], ["-m", "resume={}"], ["resume=auto"]], ids=str)
def test_what_is_gone_on_with_has_no_such_link(tmp_path, argv, monkeypatch):
    monkeypatch.chdir(tmp_path)
    top = tmp_path / "runs" / "x"
    run_dir = a_run_with_links(top, "-m" in argv)
    write_fingerprint(run_dir, to_plain(compose_config([])))
    argv = [one.format(top) for one in argv]
    prepared = prepare_command_line(argv)
    if prepared.lock is not None:
        prepared.lock.close()
    (run_dir / "config.yaml").symlink_to(tmp_path / "mine.yaml")
    with pytest.raises(UsageError, match="is a link out of the directory"):
        prepare_command_line(argv)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_a_link_is_named_with_where_it_leads(tmp_path):
    where = a_run_with_links(tmp_path / "run", is_sweep=False)
    write_fingerprint(where, to_plain(compose_config([])))
    link = where / "config.yaml"
    link.symlink_to(tmp_path / "mine.yaml")
    told = f"{link} is a link out of the directory, to {tmp_path / 'mine.yaml'}"
    with pytest.raises(UsageError, match=re.escape(told)):
        prepare_command_line([f"resume={where}"])


#: What a run writes again when it goes on, and the folders that these are in.
WRITTEN_AGAIN = [
    *(".lock", "asked.json", "config.yaml", "result.json", "hparams.yaml", "checkpoints", "csv"),
    *(".hydra/config.yaml", ".hydra/hydra.yaml", "checkpoints/best.ckpt", "csv/metrics.csv"),
]


@pytest.mark.sampled(15)
@pytest.mark.parametrize("name", WRITTEN_AGAIN)
@pytest.mark.parametrize("kind", ["link", "hanging link", "fifo", "device"])
def test_what_a_run_writes_stays_in_its_directory(tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)
    run_dir = tmp_path / "runs" / "foreign"
    (run_dir / "checkpoints").mkdir(parents=True)
    write_fingerprint(run_dir, to_plain(compose_config([])))
    (run_dir / "checkpoints" / "last.ckpt").write_bytes(b"x")
    outside = tmp_path / "outside"
    path = run_dir / name
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.rename(outside)
    elif kind == "link":
        outside.write_text("mine")
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else outside)
    if name == "result.json" and kind == "link":  # then it has ended, and nothing is written
        assert "has already finished" in prepare_command_line([f"resume={run_dir}"]).text
        return
    with pytest.raises(UsageError) as refused:
        prepare_command_line([f"resume={run_dir}"])
    assert len(str(refused.value).splitlines()) == 1


def test_a_link_within_the_directory_is_left_alone(tmp_path):
    run_dir = tmp_path / "run"
    (run_dir / "logs").mkdir(parents=True)
    (run_dir / "latest").symlink_to("logs")
    check_links(run_dir)
    (tmp_path / "named").symlink_to(run_dir)  # which the user has typed
    check_links(tmp_path / "named")


def test_a_sweep_starts_no_run_elsewhere(tmp_path):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "multirun.yaml").write_text("hydra: {overrides: {task: ['optimizer=adamw,sgd']}}")
    line = prepare_command_line(["-m", f"resume={sweep}"])
    assert line.argv
    with line.lock:  # and lets it go
        pass
    (tmp_path / "outside").mkdir()
    (sweep / "optimizer=adamw").symlink_to(tmp_path / "outside")
    with pytest.raises(UsageError, match="is a link out of the directory"):
        prepare_command_line(["-m", f"resume={sweep}"])
