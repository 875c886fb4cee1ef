"""YAML that cannot be read, or says nothing that could be built: one line with the place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from lit_optim.config.places import conf_dir
from tests.conftest import ROOT

SGD = "_target_: lit_optim.optimizers.sgd.SGD\n"
BROKEN = {
    "tab": (f"{SGD}\tlr: 1e-3\n", "mine.yaml:2: found character '\\t' that cannot start any token"),
    "indent": (f"{SGD}lr: 1\n  eps: 1\n", "mine.yaml:3: mapping values are not allowed here"),
    "twice": (f"{SGD}lr: 1\nlr: 2\n", "mine.yaml:3: found duplicate key lr"),
    "open": ("_target_: [a\n", "mine.yaml:2: expected ',' or ']'"),
    "a sign": (f"{SGD}lr: \a\n", "mine.yaml: unacceptable character #x0007"),
    "no UTF-8": ("# \udcff\n", "mine.yaml: is not UTF-8"),
    "no mapping": ("- 1\n", "optimizer must be one of its choices by name, got [1]"),
    "no class": ("lr: 1\n", "lit-optim: optimizer has no _target_: the class to make"),
    "a slip": (
        f"{SGD}lrr: 1\n",
        "lit-optim: unknown key optimizer.lrr; did you mean optimizer.lr?",
    ),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", BROKEN)
def test_it_is_named_with_its_line(tmp_path, name):
    text, told = BROKEN[name]
    shutil.copytree(conf_dir(), tmp_path / "conf")
    (tmp_path / "lit_optim").symlink_to(ROOT / "lit_optim")
    shutil.copy(ROOT / "train.py", tmp_path)
    broken = tmp_path / "conf" / "optimizer" / "mine.yaml"
    broken.write_bytes(text.encode("utf-8", "surrogateescape"))
    done = subprocess.run(
        [sys.executable, "train.py", "optimizer=mine", "preset=none"],
        cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert told in line
