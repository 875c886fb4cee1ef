"""Every script runs, small: what is in `scripts/` is found, not listed."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
RUN = [path for path in SCRIPTS if 'if __name__ == "__main__"' in path.read_text("utf-8")]
#: Arguments of a small run that writes nothing into the repository, and a part of what it prints.
SMALL = {
    "bench_run": (["--models", "linear", "--steps", "22", "--repeats", "1"], "train.py, bare's"),
    "bench_step": (
        ["--shapes", "tiny-mlp", "--optimizers", "adamw", "--executors", "torch", "--peers", "none",
         "--rounds", "1"],
        "adamw",
    ),
    "bench_sharded": (
        ["--methods", "muon", "--processes", "2", "--width", "16", "--steps", "1", "--markdown"],
        "| muon | 2 |",
    ),
    "counterparts": (["--check"], ""),
    "memory": (["--check"], ""),
    "pages": (["--check"], ""),
    "measure_optimizers": ([], "adamw"),
    "plot_packages": (["packages.svg"], ""),
    "plot_schedules": (["picture.png", "--schedules", "wsd,plateau"], ""),
    "sharding": (["--list"], "adadelta, fsdp2 of 2, frozen"),
    "stubs": (["--check"], ""),
    "tables": (["--check"], ""),
}  # fmt: skip
#: Some start processes of their own.
IN_MINUTES = {
    "bench_matrix": (
        ["--methods", "muon", "--peers", "none", "--layers", "1", "--steps", "1", "--rounds", "1"],
        "1 layers of GPT-2 small",
    ),
    "bench_sweep": (["optimizer=sgd", "seed=0", "trainer.max_steps=2"], "Hydra's basic launcher"),
    "bench_start": (["--rounds", "1"], "to the first training step"),
    "compare_optimizers": (["--optimizers", "sgd", "--steps", "20", "--jobs", "1"], "| `sgd` |"),
    "quality_state_dtype": (["--steps", "20", "--seeds", "2"], "bfloat16"),
}
#: What they need, where it is not here.
HAS_NO_BROWSER = not (shutil.which("chromium") or shutil.which("google-chrome"))
MISSING = {
    "bench_cuda": ([], "no GPU that torch can use", not torch.cuda.is_available()),
    "screenshot_report": (["report.html", "picture.png"], "no chromium", HAS_NO_BROWSER),
    "screenshot_tensorboard": (["runs", "picture.png"], "no chromium", HAS_NO_BROWSER),
}


@pytest.fixture
def script(tmp_path, monkeypatch, capfd):
    """Run one in this process as Python runs a file; returns what it printed, and its exit."""

    def start(path, *argv):
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(path.parent)
        monkeypatch.setattr(sys, "argv", [str(path), *argv])
        before = set(sys.modules)
        code = 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        finally:
            for name in set(sys.modules) - before:
                if name in {other.stem for other in SCRIPTS}:
                    del sys.modules[name]
        return capfd.readouterr().out, code

    return start


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_a_script_says_what_it_does(script, path):
    out, code = script(path, "--help")
    assert code == 0
    assert "usage:" in out


@pytest.mark.parametrize(
    "path", [path for path in SCRIPTS if path not in RUN], ids=lambda p: p.stem
)
def test_a_script_that_others_import_can_be_imported(script, path):
    assert script(path) == ("", 0)


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_a_script_runs(script, path):
    if path.stem in IN_MINUTES:
        pytest.skip("takes minutes: see the slow tests")
    if path.stem in MISSING:
        argv, message, missing = MISSING[path.stem]
        if missing:
            assert message in str(script(path, *argv)[1])
        return
    assert path.stem in SMALL, f"say in SMALL how {path.name} is run in seconds"
    argv, expected = SMALL[path.stem]
    out, code = script(path, *argv)
    assert code == 0
    assert expected in out


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_MINUTES)
def test_a_long_script_runs(tmp_path, name):
    argv, expected = IN_MINUTES[name]
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *argv]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
