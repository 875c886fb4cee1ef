"""The tab key after `lit-optim` and `python train.py`, in every shell that is here."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_optim.cli import main
from lit_optim.command_line import completion_scripts
from lit_optim.command_line.help import keys
from lit_optim.commands import load_commands
from lit_optim.config.places import groups

COMMANDS = [command.name for command in load_commands() if command.section is not None]
CASES = {
    "lit-optim ": [*COMMANDS, "--help", "--version"],
    "lit-optim p": ["plot"],
    "/some/bin/lit-optim p": ["plot"],
    "lit-optim explain wr": ["wrapper=", "wrapper."],
    "lit-optim lr-range --s": ["--steps"],
    "lit-optim schedules ws": ["wsd"],
    "lit-optim optimizers adamw_": ["adamw_hf"],
    "lit-optim plot opt": ["optimizer=", "optimizer."],
    "lit-optim plot scheduler=ws": ["scheduler=wsd"],
    "lit-optim plot scheduler=wsd,cosine_r": ["scheduler=wsd,cosine_restarts"],
    "lit-optim plot scheduler=wsd scheduler.c": ["scheduler.cooldown="],
    "lit-optim plot scheduler.w": ["scheduler.warmup="],
    "lit-optim race o": ["on=", "optimizer=", "optimizer."],
    "lit-optim race on=beale,s": ["on=beale,styblinski", "on=beale,saddle"],
    "lit-optim race optimizer=mu": ["optimizer=muon", "optimizer=muon_torch"],
    "lit-optim plot o": ["optimizer=", "optimizer."],
    "lit-optim plot --s": ["--steps-per-epoch"],
    "lit-optim plot scheduler=nothing scheduler.": [],
    "lit-optim nothing w": [],
    "lit-optim completion ": ["bash", "zsh", "fish"],
    "lit-optim doctor x": [],
    "python train.py optimizer=mu": ["optimizer=muon", "optimizer=muon_torch"],
    "python train.py optimizer=muon optimizer.n": [
        "optimizer.nesterov=",
        "optimizer.ns_coefficients=",
        "optimizer.ns_steps=",
        "optimizer.ns_dtype=",
    ],
    "python train.py optimizer=sgd optimizer.n": ["optimizer.nesterov="],
    ".venv/bin/python some/train.py optimizer=mu": ["optimizer=muon", "optimizer=muon_torch"],
    "./train.py --m": ["--multirun"],
    "CUDA_VISIBLE_DEVICES=0 python3 train.py seed": ["seed="],
    "python -m lit_optim -m optimizer=adamw,sg": ["optimizer=adamw,sgd"],
    "python other.py opt": [],
    "python train.py optimizer.nesterov=": [],  # of adamw, which has none
    "python train.py optimizer=sgd optimizer.nesterov=": [
        *("optimizer.nesterov=true", "optimizer.nesterov=false"),
    ],
    "python train.py optimizer.decay=c": ["optimizer.decay=corrected"],
    "python train.py optimizer.executor=": [
        *("optimizer.executor=auto", "optimizer.executor=native", "optimizer.executor=torch"),
    ],
    "python train.py mode=": ["mode=min", "mode=max", "mode=null"],
    "python train.py train=f": ["train=false"],
    "python train.py trainer.max_s": ["trainer.max_steps="],
    "python train.py trainer=gpu trainer.max_s": ["trainer.max_steps="],
    "python train.py trainer.enable_progress_bar=f": ["trainer.enable_progress_bar=false"],
    "python train.py callbacks.nonfinite.": [
        *("callbacks.nonfinite.policy=", "callbacks.nonfinite.most="),
    ],
    "python train.py callbacks.nonfinite.policy=r": ["callbacks.nonfinite.policy=rollback"],
    "python train.py callbacks=health callbacks.h": ["callbacks.health."],
    "python train.py resume.": ["resume.from=", "resume.horizon=", "resume.override="],
    "python train.py resume=au": ["resume=auto"],
    "python train.py +optimizer=mu": ["+optimizer=muon", "+optimizer=muon_torch"],
    "python train.py hf.warmup_": ["hf.warmup_steps=", "hf.warmup_ratio="],
    "python train.py hydra.": ["hydra.run.", "hydra.sweep."],
    "python train.py -m sea": ["search=", "search."],
    "python train.py -m search=": ["search=default", "search=none"],
    "python train.py -m search.s": [
        *("search.seeds=", "search.sampler=", "search.storage=", "search.space="),
    ],
    "python train.py -m search.sampler=g": ["search.sampler=grid", "search.sampler=gp"],
    "python train.py -m search=default search.pruner=m": ["search.pruner=median"],
    "python train.py -m optimizer.lr=a": ["optimizer.lr=auto"],
    "python train.py 'optimizer=mu": [],  # a quotation that is open
    "": [],
}


def complete(capsys, line):
    main(["complete", line])
    return capsys.readouterr().out.split()


@pytest.mark.parametrize("line", CASES)
def test_what_can_follow(capsys, line):
    found = complete(capsys, line)
    expected = CASES[line]
    assert found == expected if "executor" not in line else sorted(found) == sorted(expected)


@pytest.mark.parametrize("group", groups())
@pytest.mark.parametrize("program", ["lit-optim plot", "python train.py"])
def test_every_choice_of_every_group_can_follow(capsys, program, group):
    assert complete(capsys, f"{program} {group}=") == [
        f"{group}={name}" for name in groups()[group]
    ]


PAIRS = [(group, name) for group, known in groups().items() for name in known]


@pytest.mark.parametrize(("group", "name"), PAIRS)
def test_every_key_of_every_choice_can_follow(capsys, group, name):
    """The keys that --help shows."""
    found = complete(capsys, f"python train.py {group}={name} {group}.")
    text = keys(groups()[group][name])
    shown = re.findall(rf"^({re.escape(group)}\.(?!_target_)[\w.]+)=", text, re.MULTILINE)
    assert {f"{key}=" for key in shown} <= {re.sub(r"\.$", "=", one) for one in found}
    assert all(one.startswith(f"{group}.") for one in found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("name", groups()["optimizer"])
def test_keys_are_those_of_the_choice(capsys, name):
    """What another optimizer has is not offered: what its constructor takes is."""
    from lit_optim.config.places import target_of
    from lit_optim.signatures import read_signature

    found = complete(capsys, f"python train.py optimizer={name} optimizer.")
    signature = read_signature(target_of(groups()["optimizer"][name]))
    known = {f"optimizer.{key}=" for key in (signature.parameters if signature else ())}
    assert set(found) <= known | {"optimizer._target_="}


def test_the_keys_of_a_class_of_the_user(capsys, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "class Net:\n    def __init__(self, width, deep=False): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    line = "python train.py model=custom model._target_=mine.Net model."
    assert complete(capsys, line) == ["model._target_=", "model.width=", "model.deep="]


@pytest.mark.parametrize(
    "line",
    [
        "python train.py resume=",
        "python train.py ckpt=",
        "lit-optim board ",
        "lit-optim plot --to ",
    ],
)
def test_paths_can_follow(capsys, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.ckpt").touch()
    (tmp_path / ".hidden").touch()
    start = line.split()[-1] if line.endswith("=") else ""
    found = [one for one in complete(capsys, line) if one not in ("resume=auto", "ckpt=best")]
    assert [one for one in found if "null" not in one] == [f"{start}runs/"]
    assert complete(capsys, f"{line}runs/") == [f"{start}runs/a.ckpt"]


@pytest.mark.parametrize("file", ["broken: [", "- a list", "a: *missing"])
def test_a_broken_file_is_no_traceback(capsys, tmp_path, monkeypatch, file):
    from lit_optim.command_line import completion

    path = tmp_path / "optimizer" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(file)
    known = {**groups(), "optimizer": {**groups()["optimizer"], "mine": path}}
    monkeypatch.setattr(completion, "groups", lambda: known)
    assert complete(capsys, "python train.py optimizer=mine optimizer.") == ["optimizer._target_="]


@pytest.fixture
def script(monkeypatch, tmp_path, capsys):
    """What a shell is given; the program stands in a directory of its own."""
    program = tmp_path / "bin" / "lit-optim"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'from lit_optim.cli import main; main()' \"$@\"\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(
        completion_scripts.sys, "executable", str(program.with_name("python")), raising=True
    )

    def of(shell):
        main(["completion", *([shell] if shell else [])])
        text = capsys.readouterr().out
        path = tmp_path / "script"
        path.write_text(text)
        return path

    yield of
    monkeypatch.undo()


def needs(shell):
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"there is no {shell}")


SHELL_LINES = {
    "lit-optim plot scheduler=ws": ["scheduler=wsd"],
    "lit-optim schedules ws": ["wsd"],
    "python train.py optimizer=muon optimizer.ns_": [
        "optimizer.ns_coefficients=", "optimizer.ns_steps=", "optimizer.ns_dtype=",
    ],
    "python train.py trainer.max_st": ["trainer.max_steps="],
    "python3 -m lit_optim scheduler=one_": ["scheduler=one_cycle"],
}  # fmt: skip


@needs("bash")
@pytest.mark.parametrize("line", SHELL_LINES)
def test_bash_asks_so(script, line):
    """bash takes what follows a `=` for a word of its own."""
    call = "_lit_optim" if line.startswith("lit-optim") else "_lit_optim_python"
    text = (
        f"source {script(None)}\nCOMP_LINE='{line}' COMP_POINT={len(line)}\n{call}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True)
    assert done.stdout.split() == [word.rpartition("=")[2] or word for word in SHELL_LINES[line]]
    assert not done.stderr


@needs("bash")
def test_bash_leaves_other_programs_of_python_alone(script):
    text = (
        f"source {script('bash')}\nCOMP_LINE='python other.py opt' COMP_POINT=19\n"
        "_lit_optim_python\necho ${#COMPREPLY[@]}; complete -p python lit-optim"
    )
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True)
    count, python, own = done.stdout.splitlines()
    assert count == "0"
    assert "-o default" in python  # files
    assert own.endswith("-F _lit_optim lit-optim")


@needs("fish")
@pytest.mark.parametrize("line", SHELL_LINES)
def test_fish_asks_so(script, line, tmp_path):
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {script('fish')}; complete -C '{line}'"],
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
    )
    assert done.stdout.split() == SHELL_LINES[line], done.stderr


@needs("zsh")
def test_zsh_asks_so(script, tmp_path):
    """At a terminal: its completion works nowhere else."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.environ |= {"HOME": str(tmp_path), "TERM": "dumb", "PS1": "> ", "ZDOTDIR": str(tmp_path)}
        os.execvp("zsh", ["zsh", "-f", "-i"])
    path = script("zsh")
    try:
        typed = f"PS1='> '; source {path}; print rea''dy\n"
        os.write(terminal, typed.encode())
        assert "ready" in read(terminal, "ready")
        for line, words in SHELL_LINES.items():
            first = words[0] if len(words) == 1 else "optimizer.ns_"
            os.write(terminal, b"\x15" + line.encode() + b"\t")  # in place of the last line
            text = read(terminal, first)
            assert first in text, text
    finally:
        os.close(terminal)
        os.waitpid(child, 0)


def read(terminal, until, seconds=20.0):
    """What a terminal shows, up to a text."""
    text, end = "", time.monotonic() + seconds
    while until not in text and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            text += os.read(terminal, 4096).decode(errors="replace")
        text = text.replace("\a", "").replace("\r\n", "")
    return text


@pytest.mark.parametrize("shell", completion_scripts.SHELLS)
def test_a_script_calls_the_program_of_this_environment(script, shell):
    text = script(shell).read_text()
    assert f"{Path(completion_scripts.sys.executable).with_name('lit-optim')} complete" in text
    assert "@PROGRAM@" not in text


def test_an_unknown_shell_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["completion", "tcsh"])
    assert end.value.code == 2
    assert "bash" in capsys.readouterr().err
