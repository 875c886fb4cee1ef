"""Whole runs, interrupted in every way: twenty of the cycles of `scripts/chaos.py`."""

from __future__ import annotations

import os
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_cycles_end_equal_to_the_bit(tmp_path, forks):
    script = str(ROOT / "scripts" / "chaos.py")
    argv = [script, "--cycles", os.environ.get("CYCLES", "20"), "--small", "--jobs", "2"]
    done = forks.run(argv, tmp_path, dict(os.environ), timeout=550)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stuck                                        0" in done.stdout
