"""Every script runs, small: what is in `scripts/` is found, not listed."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.errors import UsageError
from tests.conftest import ROOT
from tests.results.algoperf import score_as_algoperf
from tests.results.searches import write_contest
from tests.sampling import sample

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
    "bench_update": (
        ["--text", str(ROOT / "README.md"), "--optimizers", "adamw,sgd", "--updates", "1",
         "--rounds", "1"],
        "x adamw",
    ),
    "long_run": (["--steps", "20", "--validations", "2", "model=linear"], "nothing grows"),
    "chaos": (["--cycles", "0"], "equal to the bit"),  # tests/test_chaos.py runs some
    "check_profile": (["scores"], "5 of 5 are the same to 1e-09 with 100 points"),
    "counterparts": (["--check"], ""),
    "memory": (["--check"], ""),
    "measure_optimizers": ([], "adamw"),
    "optimizer_results": (["contest"], "| `adamw` | 0.01 |"),
    "plot_packages": (["packages.svg"], ""),
    "plot_schedules": (["picture.png", "--schedules", "wsd,plateau"], ""),
    "sharding": (["--list"], "adadelta, fsdp2 of 2, frozen"),
    "stubs": (["--check"], ""),
    "tables": (["--check"], ""),
}  # fmt: skip


def write_scores() -> None:
    """A benchmark's table; what its rules make of it, by hand, and the scores of that."""
    times = {  # of workloads a and b, and of a variant of a
        "s0": ("100", "100", "50"),
        "s1": ("150", "inf", "60"),
        "s2": ("120", "90", "inf"),  # a does not count without its variant
        "s3": ("", "500", "10"),  # nor the variant without a; b is beyond four times the fastest
        "s4": ("110", "95", "45"),
    }
    counted = [[100, 100], [150, inf], [inf, 90], [inf, inf], [110, 95]]
    folder = Path("scores")
    folder.mkdir()
    lines = [",".join((name, *row)) for name, row in times.items()]
    (folder / "time_to_targets.csv").write_text("\n".join(["submission,a,b,a_x", *lines]))
    scores = zip(times, score_as_algoperf(np.array(counted)).tolist(), strict=True)
    lines = [f"{name},{score!r}" for name, score in scores]
    (folder / "scores.csv").write_text("\n".join(["submission,score", *lines]))
    rules = {"base_workloads": ["a", "b"], "held_out_workloads": ["a_x"]}
    (folder / "workload_targets_v05.json").write_text(json.dumps(rules))


#: What some read, written where they run.
PREPARE = {
    "check_profile": write_scores,
    "optimizer_results": lambda: write_contest(Path("contest"), ["digits"]),
}
#: Some start processes of their own.
IN_MINUTES = {
    "pages": (["--check"], ""),  # tests/test_pages.py asks what it writes
    "bench_busy": (
        [
            *("--models", "cnn", "--situations", "2 busy,quota of one core"),
            *("--rounds", "2", "--seconds", "0.1"),
        ],
        "| cnn | quota of one core |",
    ),
    "bench_matrix": (
        ["--methods", "muon,shampoo", "--peers", "none", "--width", "64", "--steps", "2"],
        "2 layers of GPT-2",
    ),
    "bench_search": (
        ["--runs", "2", "--rounds", "1", "data=digits", "trainer.max_steps=2"],
        "| search |",
    ),
    "bench_sweep": (["optimizer=sgd", "seed=0", "trainer.max_steps=2"], "Hydra's basic launcher"),
    "bench_start": (["--rounds", "1"], "to the first training step"),
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
def test_a_script_runs(script, path, tmp_path, monkeypatch):
    if path.stem in IN_MINUTES:
        pytest.skip("takes minutes: see the slow tests")
    if path.stem in MISSING:
        argv, message, missing = MISSING[path.stem]
        if missing:
            assert message in str(script(path, *argv)[1])
        return
    assert path.stem in SMALL, f"say in SMALL how {path.name} is run in seconds"
    argv, expected = SMALL[path.stem]
    monkeypatch.chdir(tmp_path)
    PREPARE.get(path.stem, lambda: None)()
    out, code = script(path, *argv)
    assert code == 0
    assert expected in out


@pytest.mark.parametrize(
    ("what", "more"), [("memory", 5.0), ("threads", 1), ("files", 1), ("cpu", 0.2), (None, 0)]
)
def test_what_grows_in_a_long_run_is_told(what, more, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    long_run = importlib.import_module("long_run")
    start = {"memory": 500.0, "threads": 2, "files": 6, "wall": 1.0, "cpu": 2.0}
    seen = []
    for tenth in range(10):
        values = dict(start)
        values["memory"] += 200 * min(tenth, 2)  # at its beginning a run loads and compiles
        if what is not None:
            values[what] += tenth * more
        seen.append(long_run.Sight(step=tenth, validations=tenth, **values))
    assert [line.partition(":")[0] for line in long_run.growth(tuple(seen))] == [what] * bool(what)


def test_what_is_measured_on_a_gpu_is_written_with_what_is_missing(script, tmp_path):
    """Rehearsed: for a GPU that is lent for minutes there is no second try."""
    page = tmp_path / "kernels.md"
    page.write_text("before\n<!-- gpu -->\nold\n<!-- /gpu -->\nafter\n")
    command = [ROOT / "scripts" / "bench_cuda.py", "--all", "--rehearse", "--minutes", "0"]
    assert script(*command, "--page", str(page))[1] == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- gpu -->\n\n`python scripts/bench_cuda.py --all ")
    assert text.endswith("\n\n<!-- /gpu -->\nafter\n")
    assert "old" not in text
    assert "Not measured, for want of time: momentum, muon of width 768." in text
    assert text.count("\n| adamw | ") == 2  # of either shape
    page.write_text("no marks")
    assert "has no <!-- gpu -->" in script(*command, "--page", str(page))[1]


def test_the_tables_of_tournaments_are_written_with_their_pages(script, tmp_path):
    notes = {"notes": {"lion": ["why"]}}
    root = write_contest(tmp_path / "contest", ["digits", "mnist1d"], **notes)
    page, names = tmp_path / "optimizers.md", ("digits", "mnist1d", "all tasks")
    page.write_text(
        "before\n" + "".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in names)
    )
    (tmp_path / "images").mkdir()
    command = [ROOT / "scripts" / "optimizer_results.py", str(root), "--write"]
    assert script(*command, "--docs", str(tmp_path))[1] == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- digits -->\n```bash\nlit-optim tournament ")
    assert text.endswith("| `sgd` | 0.000 |\n<!-- /all tasks -->\n")
    assert (tmp_path / "images" / "profile.svg").read_text().startswith("<?xml")
    assert "| `lion` [1] | 0.001 |" in text
    assert "- \\[1\\] why." in text
    assert "old" not in text
    assert "ms/step" not in text
    report = (tmp_path / "tournaments" / "digits.html").read_text("utf-8")
    assert f"]({Path('tournaments/digits.html')})" in text
    assert str(tmp_path) not in report + text
    assert "python train.py data=digits optimizer=lion optimizer.lr=0.001 seed=10" in report
    out, code = script(*command, "--docs", str(tmp_path / "none"))
    assert "optimizer_results: " in str(code)
    assert script(*command[:2], str(root / "none"))[1]
    assert out


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_MINUTES)
def test_a_long_script_runs(tmp_path, name):
    argv, expected = IN_MINUTES[name]
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *argv]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


CHECKS = (ROOT / "scripts" / "check_search.sh").read_text("utf-8")
MISTAKES = CHECKS.partition("<<'LINES'\n")[2].partition("\nLINES\n")[0].splitlines()


def test_the_acceptance_checks_of_a_search_are_twelve():
    """They take half an hour; what is seen of them here is that each has a title and its tests."""
    subprocess.run(["bash", "-n", ROOT / "scripts" / "check_search.sh"], check=True)
    titles = re.findall(r"^check_(\d+)\(\) \{  # \w", CHECKS, re.MULTILINE)
    assert titles == [str(number) for number in range(1, 13)]
    for path, name in re.findall(r"(tests/\S+\.py).*?-k \"?\(?(\w+)", CHECKS, re.DOTALL):
        assert name in (ROOT / path).read_text("utf-8")


@pytest.mark.parametrize("line", sample(MISTAKES, 5))
def test_the_mistakes_of_the_acceptance_checks_are_mistakes(line):
    with pytest.raises(UsageError):
        prepare_command_line(shlex.split(line))
