"""What some tests need of the machine."""

from __future__ import annotations

import shutil

import pytest

compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here"
)
