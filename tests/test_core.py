"""`pip install lit-optim` is enough for a loop of one's own."""

from __future__ import annotations

import re
import subprocess
import sys

from lit_optim.schedules.registry import schedules_by_name
from tests.conftest import ROOT
from tests.optimizers.running import NAMES


def test_the_core_needs_none_of_the_extras():
    """A process, since here the packages have been imported."""
    command = [sys.executable, "-m", "tests.core_alone"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    optimizers, schedules = map(int, re.findall(r"\d+", done.stdout))
    assert optimizers == len(NAMES)
    assert schedules == len(schedules_by_name())
