"""A model that does not fit its data or the memory is refused in one line before training."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lit_optim.errors import UsageError
from lit_optim.reports.explanation import explain

MODELS = ("linear", "mlp", "cnn", "gru")


def refuse(*argv):
    with pytest.raises(UsageError) as refused:
        explain(list(argv), Console(quiet=True))
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.sampled(12)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("features=100", "model.features=100 does not fit the data: Digits has features=64"),
        ("features=63", "so it must be 64; left out, it is taken from the data"),
        ("classes=9", "model.classes=9 does not fit the data: Digits has classes=10"),
        ("classes=2", "so it must be 10 or more"),
    ],
)
@pytest.mark.parametrize("batch", ["mini", "full"])
def test_sizes_that_do_not_fit_the_data_are_refused(model, size, message, batch):
    assert message in refuse("data=digits", f"model={model}", f"model.{size}", f"batch={batch}")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("more", ["model.classes=10", "model.features=64", "model.classes=11"])
def test_sizes_that_fit(model, more):
    said = io.StringIO()
    explain(["data=digits", f"model={model}", more], Console(file=said))
    assert "no problems found" in said.getvalue()


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("cnn", "channels=9223372036854775807"),
        ("cnn", "channels=1000000000000"),
        ("cnn", "features=2"),
        ("mlp", "width=10000000000"),
        ("mlp", "features=1000000000000000000"),
        ("linear", "classes=9000000000000000000"),
        ("gru", "hidden=10000000000000"),
    ],
)
def test_what_no_memory_holds(model, size):
    message = refuse("data=digits", f"model={model}", f"model.{size}")
    assert f"model.{size}" in message


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog " * 60)
    return f"data.path={path}"


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("vocab_size=5", "CharText has vocab_size=27, so it must be 27 or more"),
        ("block=16", "CharText has block=64, so it must be 64 or more"),
        ("width=9223372036854775807", "model.width=9223372036854775807"),
        ("vocab_size=28", None),
        ("block=65", None),
    ],
)
def test_characters(text, size, message):
    argv = ["data=char_lm", "model=gpt", text, f"model.{size}"]
    if message is None:
        explain(argv, Console(quiet=True))
    else:
        assert message in refuse(*argv)
