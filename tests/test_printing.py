"""What is printed at the end of a run is whole in a terminal of any width, and in a pipe."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lit_optim.printing import print_pairs, wrap_items

PATH = "/home/somebody/a long name/runs/2026-11-27/12-00-00-000000_adamw_cosine_warmup_with_min_lr"
ROWS = [
    ("optimizer", "adamw  lr 0.01"),
    ("val/loss/dataloader_idx_0_of_several", "0.7444  (best 0.7391)"),
    ("val/acc", "0.9123  (best 0.9234)"),
    ("time", "1234.5 s"),
    ("run", PATH),
    ("curves", f"lit-optim board {PATH}"),
]
NUMBERS = {"0.01", "0.7444", "0.7391", "0.9123", "0.9234", "1234.5"}


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_numbers_and_paths_are_whole(width, terminal, term):
    out = io.StringIO()
    environment = {"TERM": term, "COLUMNS": str(width)}
    console = Console(file=out, force_terminal=terminal, _environ=environment, color_system=None)
    print_pairs(console, ROWS)
    text = out.getvalue()
    assert set(re.findall(r"\d+\.\d+", text.replace(PATH, ""))) == NUMBERS
    assert f"lit-optim board {PATH}\n" in text
    assert text.count(PATH) == 2
    if not terminal:
        assert len(text.splitlines()) == len(ROWS)
    if terminal and term == "xterm" and width >= 40:
        short = [line for line in text.splitlines() if PATH not in line]
        assert max(map(len, short)) <= width


WORDS = st.text("ab.1", min_size=1, max_size=12)


@given(st.lists(st.tuples(WORDS, WORDS), max_size=8), st.integers(1, 60))
def test_wrapping_breaks_between_words_only(items, width):
    lines = wrap_items(items, width, " ")
    assert " ".join(lines).split() == [word for item in items for word in item]
    for line in lines:
        assert len(line) <= width or len(line.split()) == 1
