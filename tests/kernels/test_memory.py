"""A native step allocates no memory besides its tensors, however large they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MB = 1 << 20
ELEMENTS = 20_000_000
pytestmark = [
    pytest.mark.skipif(
        not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here"
    ),
    pytest.mark.skipif(
        not Path("/proc/self/clear_refs").exists(), reason="no peak of memory to set back here"
    ),
]

#: Prints by how many bytes the peak of memory in use lies over what is in use before, first of what
#: allocates 8 MB for a moment, then of two steps.
GROWTH = """
import gc, json, sys
import torch
from lit_optim.optimizers.adamw import AdamW

def status(key):
    with open("/proc/self/status") as file:
        [line] = [line for line in file if line.startswith(key + ":")]
    return int(line.split()[1]) * 1024

def growth(call):
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is from now on
    before = status("VmRSS")
    call()
    return status("VmHWM") - before

def steps():
    optimizer.step()
    optimizer.step()

p = torch.nn.Parameter(torch.ones(int(sys.argv[1])))
p.grad = torch.ones_like(p)
optimizer = AdamW([p], executor="native", **json.loads(sys.argv[2]))
steps()
growth(steps)
print(growth(lambda: torch.ones(1 << 21)), growth(steps))
"""


@pytest.mark.parametrize(
    "options",
    ["{}", '{"state_dtype": "int8"}', '{"state_dtype": "int8", "trust_ratio": true}'],
)
def test_a_step_takes_less_than_a_megabyte(options):
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(ELEMENTS), options],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    known, found = map(int, done.stdout.split())
    assert known > 7 * MB  # the measure sees what there is
    assert found < MB
