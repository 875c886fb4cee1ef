"""A directory of someone else as a whole, the current directory, and the cache."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys

import pytest

from lit_optim import app, cli
from tests.conftest import ROOT
from tests.kernels.compiling import ANSWER, SOURCE, answer
from tests.results.directories import write_events, write_history, write_run

EVIL = "\x1b[2J\x9b31m\u202e<script>hacked()</script>[red]=cmd|' /C calc'!A0\r\n../../../mine"
EVIL_TARGET = "{_target_: os.system, command: touch mark}"
YAML = f"""\
_target_: os.system
x: !!python/object/apply:os.system [touch mark]
optimizer: {EVIL_TARGET}
hydra: {{launcher: {EVIL_TARGET}, callbacks: {{e: {EVIL_TARGET}}}}}
"""
#: Records that are believed as far as their kind goes.
RECORDS = ("job.json", "result.json", "run.json", "asked.json", "sweep.json", "search.json",
           "tournament.json", "stop.json", "hparams.yaml", "config.yaml", "multirun.yaml",
           ".hydra/config.yaml", ".hydra/hydra.yaml")  # fmt: skip


#: What is left, so that a reader gets as far as the rest.
KEPT = ("overrides", "status", "exit_code", "seconds", "monitor", "mode", "final", "best", "steps")


def spoil(value, kept=()):
    """A value of a record, with every text in it added to, and more of it."""
    if isinstance(value, dict):
        inner = {key: x if key in kept else spoil(x) for key, x in value.items()}
        return inner | {EVIL: EVIL}
    if isinstance(value, list):
        return [*map(spoil, value), EVIL]
    return f"{value}{EVIL}" if isinstance(value, str) else value


@pytest.fixture(scope="module", params=["plausible", "broken"])
def foreign(request, tmp_path_factory):
    """A sweep of a stranger, beside a file of the user's that it tries to reach."""
    is_broken = request.param == "broken"
    top = tmp_path_factory.mktemp("top")
    (top / "mine").write_text("mine")
    sweep = top / "a" / "b" / "foreign"
    for k in range(3):
        overrides = ["optimizer=adamw", f"seed={k}", f"++model.x={EVIL}{k}"]
        run = write_run(sweep, f"run{k}", overrides, k / 3, test={EVIL: 1.0})
        write_history(run, [(1, 1.0, 1, 0.1, 0.5), (2, 2.0, 2, 0.1, float("nan"))], (EVIL,))
        write_events(run, {EVIL[:40]: {0: 1.0}})
        (run / "checkpoints").mkdir()
        (run / "checkpoints" / "last.ckpt").write_bytes(b"cos\nsystem\n(S'touch mark'\ntR.")
        (run / ".hydra").mkdir()
        lines = ["optimizer=adamw", f"hydra.callbacks.e={EVIL_TARGET}"]
        lines += [f"++x={EVIL!r}"] if is_broken else []
        (run / ".hydra" / "overrides.yaml").write_text(json.dumps(lines))
        for name in RECORDS:
            known = json.loads((run / name).read_text()) if (run / name).is_file() else {}
            if name.endswith("json") and (known or is_broken):
                (run / name).write_text(json.dumps(spoil(known, () if is_broken else KEPT)))
            elif name.endswith("yaml"):
                (run / name).write_text(YAML)
    for name in ("search.json", "tournament.json", "multirun.yaml", "sweep.json"):
        line = ["optimizer=adamw,sgd", f"hydra.callbacks.e={EVIL_TARGET}"]
        line += [f"x={EVIL}"] if is_broken else []
        content = {"line": line, "hydra": {"overrides": {"task": line}}, "begun": True}
        if is_broken or name in ("multirun.yaml", "sweep.json"):
            (sweep / name).write_text(json.dumps(content | {EVIL: EVIL}))
    (sweep / "study.db").write_bytes(b"SQLite format 3\x00" + EVIL.encode() * 100)
    (sweep / "\x1b[31m$(touch mark)").touch()
    # temporary files of whichever process is the next one to write a report there
    for name in ("report.html", "runs.csv", "x.html", "x.yaml"):
        (sweep / f".{name}.{os.getpid()}.tmp").symlink_to(top / "mine")
    (sweep / "report.html").symlink_to(top / "mine")
    return sweep


def seen(top):
    return {
        str(path.relative_to(top)): path.read_bytes() if path.is_file() else None
        for path in top.rglob("*")
        if not {"foreign", "runs"} & {*path.parts}
    }


READERS = [
    "report DIR", "report DIR --to DIR/x.html", "report DIR --to DIR/report.html",
    "report DIR --to DIR/figures", "report DIR --metric test/acc --by optimizer",
    "results DIR", "results DIR/run0", "best DIR", "best DIR --export DIR/x.yaml",
    "rerun DIR/run0", "rerun DIR", "worker DIR", "tournament DIR", "explain resume=DIR/run0",
    "plot resume=DIR/run0", "lr-range resume=DIR/run0", "train resume=DIR/run0",
    "train -m resume=DIR", "train resume=DIR",
    "train branch_from=DIR/run0/checkpoints/last.ckpt cooldown=5",
    "train train=false ckpt=DIR/run0/checkpoints/last.ckpt",
    "train weights=DIR/run0/checkpoints/last.ckpt", "train hf=DIR/run0/hparams.yaml",
"train data=char_lm data.path=DIR/run0/checkpoints",
]  # fmt: skip


@pytest.mark.parametrize("line", READERS)
def test_a_directory_of_a_stranger_as_a_whole(line, foreign, monkeypatch, capfd):
    top = foreign.parents[2]
    monkeypatch.chdir(top / "a")
    words = line.replace("DIR", os.path.join("b", "foreign")).split()
    before = seen(top)
    monkeypatch.setattr(app, "MAIN", [])
    code = 0
    try:
        cli.main(words)
    except SystemExit as end:
        code = end.code
    told = "".join(capfd.readouterr())
    assert code in (0, None, 1, 2), told
    assert all(character.isprintable() or character == "\n" for character in told), ascii(told)
    assert "Traceback" not in told
    if code == 2:
        assert told.count("\n") == 1, told
    assert seen(top) == before


def test_what_is_installed_is_imported_before_the_current_directory(tmp_path):
    for path in (ROOT / "lit_optim").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("sys.path."):
                assert node.attr == "append", path
    for name in ("json", "numpy", "torch", "hydra", "rich", "lit_optim"):
        (tmp_path / f"{name}.py").write_text("open('mark', 'w').close()\n")
    script = tmp_path / "bin" / "lit-optim"
    script.parent.mkdir()
    script.write_text("from lit_optim.entry import command\n\ncommand()\n")
    done = subprocess.run(
        [sys.executable, str(script), "report", "."], cwd=tmp_path,
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert not (tmp_path / "mark").exists()


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")
@pytest.mark.parametrize("kind", ["writable", "owned"])
def test_a_kernel_of_another_user_is_not_loaded(kind, kernel_cache, monkeypatch):
    assert str(answer()) == ANSWER
    [kernel] = kernel_cache.glob("*.so")
    own = kernel.read_bytes()
    assert str(answer(SOURCE.replace("*h +", "1 + *h +"))) != ANSWER
    [other] = [path for path in kernel_cache.glob("*.so") if path != kernel]
    if kind == "writable":
        other.chmod(0o666)
    elif os.geteuid() == 0:
        os.chown(other, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    other.replace(kernel)
    assert kernel.read_bytes() != own
    assert str(answer()) == ANSWER  # in this process the first one stays loaded in any case
    assert kernel.read_bytes() == own
