"""Marks that skip a test where the machine lacks what it needs."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest

compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler"
)
triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed (pip install lit-optim[triton])"
)
