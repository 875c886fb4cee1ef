"""Which run `resume` goes on with, and what it refuses."""

from __future__ import annotations

import json
import os

import pytest

from lit_optim.command_line.combinations import compose_combinations
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.check import to_plain
from lit_optim.config.composing import compose_config
from lit_optim.config.lr import tuned_lrs
from lit_optim.errors import UsageError
from lit_optim.runs.resume import find_resumable, write_fingerprint


def plain(*lines):
    return to_plain(compose_config(list(lines)))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def a_run(place, name, *lines, checkpoint=True, finished=False):
    run_dir = place / "runs" / name
    (run_dir / "checkpoints").mkdir(parents=True)
    write_fingerprint(run_dir, plain(*lines))
    if checkpoint:
        (run_dir / "checkpoints" / "last.ckpt").write_bytes(b"x")
    if finished:
        (run_dir / "result.json").write_text("{}")
    return run_dir


def test_auto_takes_the_newest_of_the_same_configuration(place):
    a_run(place, "other", "optimizer=sgd")
    run_dir = a_run(place, "same", "optimizer=adamw", "optimizer.lr=0.1")
    line = prepare_command_line(["optimizer=adamw", "optimizer.lr=0.1", "resume=auto"])
    assert f"hydra.run.dir='{run_dir.relative_to(place)}'" in line.argv
    assert f"++resume.from='{run_dir.relative_to(place)}'" in line.argv


def test_auto_looks_in_directories_of_any_depth(place):
    run_dir = a_run(place, "same", "optimizer=sgd")
    (place / "runs" / "x").mkdir()
    (place / "runs" / "x" / "asked.json").symlink_to("nowhere")
    deep = [f"{run_dir}{'/d' * depth}" for depth in range(1, 1200)]  # Python calls 1,000 functions
    for directory in deep:
        os.mkdir(directory)
    try:
        line = prepare_command_line(["optimizer=sgd", "resume=auto"])
    finally:
        for directory in reversed(deep):
            os.rmdir(directory)
    assert f"hydra.run.dir='{run_dir.relative_to(place)}'" in line.argv


def test_auto_takes_a_run_on_another_number_of_processes_where_that_may_differ(place):
    line = ["optimizer=adamw", "trainer=fsdp_cpu"]
    run_dir = a_run(place, "two", *line)
    line += ["trainer.devices=3", "resume=auto"]
    assert f"++resume.from='{run_dir.relative_to(place)}'" not in prepare_command_line(line).argv
    line = prepare_command_line([*line, "resume.override=[trainer.devices]"])
    assert f"++resume.from='{run_dir.relative_to(place)}'" in line.argv


def test_auto_without_one_begins_anew(place, capsys):
    a_run(place, "other", "optimizer=sgd")
    line = prepare_command_line(["optimizer=adamw", "resume=auto"])
    assert not any("hydra.run.dir" in argument for argument in line.argv)
    assert "no run has this configuration" in capsys.readouterr().out


def test_auto_resumes_a_run_in_the_directory_that_is_named(place, capsys):
    """The same line starts it, starts it anew after an early kill, resumes it, and ends."""
    line = ["optimizer=adamw", "hydra.run.dir=it", "resume=auto"]
    a_run(place, "elsewhere", "optimizer=adamw")
    assert "++resume.from='runs/elsewhere'" in prepare_command_line(line).argv
    run_dir = a_run(place, "../it", "optimizer=adamw", checkpoint=False)
    (run_dir / "config.yaml").touch()
    begun = prepare_command_line(line).argv
    assert "has no checkpoint; starting anew" in capsys.readouterr().out
    assert [x for x in begun if x.startswith(("hydra.run.dir", "++resume"))] == ["hydra.run.dir=it"]
    (run_dir / "checkpoints" / "last.ckpt").write_bytes(b"x")
    assert "++resume.from='it'" in prepare_command_line(line).argv
    (run_dir / "result.json").write_text("{}")
    assert "it has already finished" in prepare_command_line(line).text
    other = ["optimizer=sgd", *line[1:]]
    for again in (other, line[:-1]):
        with pytest.raises(UsageError, match=r"hydra\.run\.dir=it already holds a run"):
            prepare_command_line(again)


def test_a_finished_run_is_told(place):
    a_run(place, "same", "optimizer=adamw", finished=True)
    assert "has already finished" in prepare_command_line(["optimizer=adamw", "resume=auto"]).text
    assert (
        "has already finished" in prepare_command_line(["optimizer=adamw", "resume=runs/same"]).text
    )


def test_what_changes_no_result_may_differ(place):
    run_dir = a_run(place, "same", "optimizer=adamw")
    more = ["test=false", "trainer.enable_progress_bar=false", "resume=runs/same"]
    assert (
        find_resumable(plain("optimizer=adamw", *more[:2], "resume.from=runs/same")).run_dir.name
        == "same"
    )
    assert prepare_command_line(["optimizer=adamw", *more]).argv
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    assert find_resumable(plain("optimizer=adamw", f"resume.from={checkpoint}")).run_dir == run_dir


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (["optimizer.lr=0.2"], "optimizer.lr was 0.1, now 0.2; restore the original values, or"),
        (["optimizer.lr=0.2"], "resume.override=[optimizer.lr]"),
        (["optimizer=sgd"], "optimizer._target_ was"),
        (["scheduler=wsd"], "scheduler._target_ was"),
        (["data.batch_size=30"], "data.batch_size was 24, now 30"),
        (["trainer.devices=2", "trainer.strategy=ddp"], "trainer.devices was"),
        (
            ["model=mlp", "resume.override=[model]"],
            "this is a different run, and the saved state does not fit",
        ),
        (["trainer.max_steps=99"], "trainer.max_steps was 4000, now 99; use resume.horizon=keep"),
    ],
    ids=["lr", "how", "optimizer", "scheduler", "batch", "devices", "fixed", "horizon"],
)
def test_another_run_is_refused(place, lines, line):
    a_run(place, "same", "optimizer=adamw", "optimizer.lr=0.1")
    given = {
        text.partition("=")[0]: text for text in ["optimizer=adamw", "optimizer.lr=0.1", *lines]
    }
    with pytest.raises(UsageError) as refused:
        prepare_command_line([*given.values(), "resume=runs/same"])
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_its_directory_alone_is_the_command_it_was_started_with(place, capsys):
    lines = ["optimizer=momentum", "++optimizer.lr=0.1", "++optimizer.momentum=0.8"]
    run_dir = a_run(place, "same", *lines)
    (run_dir / ".hydra").mkdir()
    before = [*lines, "++resume.from=runs/first", "++allow=[evil]"]
    (run_dir / ".hydra" / "overrides.yaml").write_text("".join(f"- {line}\n" for line in before))
    line = prepare_command_line(["resume=runs/same"])
    assert line.argv == [*lines, "++resume.from='runs/same'", "hydra.run.dir='runs/same'"]
    assert "optimizer=momentum optimizer.lr=0.1" in capsys.readouterr().out
    with pytest.raises(
        UsageError, match=r"optimizer.lr was 0.1, now 0.2; restore the original values"
    ):
        prepare_command_line(["resume=runs/same", "optimizer.lr=0.2"])
    lr = tuned_lrs("mnist1d")["momentum"]  # which it has by default
    changed = rf"lr was 0.1, now {lr:g}, optimizer.momentum was 0.8, now 0.9"
    with pytest.raises(UsageError, match=changed):
        prepare_command_line(["resume=runs/same", "optimizer=momentum"])
    assert prepare_command_line(["--cfg", "job", "resume=runs/same"]).argv[2:-1] == lines
    (run_dir / ".hydra" / "overrides.yaml").write_text("")
    with pytest.raises(UsageError, match=r"overrides.yaml cannot be read; delete it, and type"):
        prepare_command_line(["resume=runs/same"])


def test_a_branch_is_not_gone_on_with(place):
    run_dir = a_run(place, "branch")
    asked = json.loads((run_dir / "asked.json").read_text())
    (run_dir / "asked.json").write_text(json.dumps(asked | {"branch_from": "runs/x/last.ckpt"}))
    with pytest.raises(
        UsageError, match="a branch, and branches cannot be resumed; branch again, with"
    ):
        prepare_command_line(["resume=runs/branch"])


@pytest.mark.parametrize("line", ["resume.from=runs/same", "resume=runs/same", "resume=auto"])
def test_other_commands_are_about_what_is_typed(line, place):
    a_run(place, "same")
    with pytest.raises(
        UsageError,
        match=r"lit-optim train \(a sweep: lit-optim train -m resume=DIR",
    ):
        list(compose_combinations([line]))


def test_what_may_change(place):
    a_run(place, "same", "optimizer=adamw", "optimizer.lr=0.1", finished=True)
    more = ["resume=runs/same", "resume.override=[optimizer.lr]", "resume.horizon=extend"]
    line = prepare_command_line(
        ["optimizer=adamw", "optimizer.lr=0.2", "trainer.max_steps=9000", *more]
    )
    assert line.text is None
    assert "hydra.run.dir='runs/same'" in line.argv


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (["resume=runs/none"], "is not the directory of a run: its asked.json is missing"),
        (["resume=runs/empty"], "it has no checkpoint"),
        (["resume.horizon=never"], "resume.horizon must be one of error, keep, extend"),
        (["resume.override=lr"], "resume.override must be a list of keys"),
        (["resume.form=auto"], "unknown key resume.form"),
        (["-m", "optimizer=adamw,sgd", "resume=auto"], "must be the directory of a sweep"),
        (["branch_from=none.ckpt"], "branch_from=none.ckpt is not a file"),
    ],
    ids=["path", "empty", "horizon", "override", "key", "multirun", "branch"],
)
def test_mistakes(place, lines, line):
    a_run(place, "empty", "optimizer=adamw", checkpoint=False)
    with pytest.raises(UsageError) as refused:
        prepare_command_line(lines)
    assert line in str(refused.value)


def test_a_note_that_is_broken_is_no_run(place):
    run_dir = a_run(place, "same", "optimizer=adamw")
    (run_dir / "asked.json").write_text(json.dumps({"x": 1})[:-1])
    assert find_resumable(plain("optimizer=adamw", "resume.from=auto")).run_dir is None


LENGTHS = {
    "trainer.max_steps=600": "trainer.max_steps was 300, now 600",
    "trainer.max_epochs=9": "trainer.max_steps was 300, now -1, trainer.max_epochs was None, now 9",
    "+trainer.max_time=00:01:00:00": "trainer.max_time was None, now 00:01:00:00",
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("longer", LENGTHS)
def test_auto_never_begins_a_run_anew_that_is_only_longer(place, capsys, longer, finished):
    a_run(place, "other", "optimizer=sgd", "trainer.max_steps=300")
    run_dir = a_run(place, "short", "trainer.max_steps=300", finished=finished)
    as_before = ["trainer.max_steps=300"] if "max_time" in longer else []
    line = ["resume=auto", *as_before, longer]
    with pytest.raises(UsageError) as refused:
        prepare_command_line(line)
    assert f"runs/short differs only in its length: {LENGTHS[longer]}" in str(refused.value)
    for horizon in ("keep", "extend"):
        argv = prepare_command_line([*line, f"resume.horizon={horizon}"]).argv
        assert f"hydra.run.dir='{run_dir.relative_to(place)}'" in argv
    assert not any(
        "hydra.run.dir" in x for x in prepare_command_line([*line, "resume=none"][1:]).argv
    )
    a_run(place, "same", *line[1:])
    assert "hydra.run.dir='runs/same'" in prepare_command_line(line).argv
