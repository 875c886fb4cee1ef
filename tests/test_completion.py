"""The tab key after `lit-optim`."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from lit_optim.cli import main
from lit_optim.config.places import groups

CASES = {
    "lit-optim ": [
        *(
            "optimizers",
            "schedules",
            "train",
            "plot",
            "explain",
            "lr-range",
            "doctor",
            "completion",
        ),
    ],
    "lit-optim explain wr": ["wrapper="],
    "lit-optim lr-range --s": ["--steps"],
    "lit-optim p": ["plot"],
    "lit-optim schedules ws": ["wsd"],
    "lit-optim optimizers adamw_": ["adamw_hf"],
    "lit-optim plot opt": ["optimizer=", "optimizer.lr="],
    "lit-optim plot scheduler=ws": ["wsd"],
    "lit-optim plot scheduler=wsd,cosine_r": ["wsd,cosine_restarts"],
    "lit-optim plot scheduler=wsd scheduler.c": ["scheduler.cooldown="],
    "lit-optim plot scheduler.w": ["scheduler.warmup="],
    "lit-optim plot --s": ["--steps-per-epoch"],
    "lit-optim plot scheduler=nothing scheduler.": [],
    "lit-optim nothing w": [],
}


@pytest.mark.parametrize("line", CASES)
def test_what_can_follow(capsys, line):
    main(["complete", line])
    assert capsys.readouterr().out.split() == CASES[line]


def test_every_schedule_can_follow(capsys):
    main(["complete", "lit-optim plot scheduler="])
    assert capsys.readouterr().out.split() == list(groups()["scheduler"])


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("line", ["lit-optim plot scheduler=ws", "lit-optim schedules ws"])
def test_bash_asks_so(tmp_path, capsys, line):
    main(["completion"])
    program = tmp_path / "lit-optim"
    program.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'from lit_optim.cli import main; main()' \"$@\"\n"
    )
    program.chmod(0o755)
    script = (
        f"PATH={tmp_path}:$PATH\n{capsys.readouterr().out}"
        f"COMP_LINE='{line}' COMP_POINT={len(line)}\n_lit_optim\necho ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "wsd"
