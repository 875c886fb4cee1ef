"""What an annotation accepts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import accepts, check, describe

POSITIVE = Annotated[float, "> 0"]
BETAS = Annotated[tuple[float, float], "in [0, 1)"]


@pytest.mark.parametrize(
    ("annotation", "good", "bad", "words"),
    [
        (
            POSITIVE,
            [1, 0.5, 1e-30],
            [0, -1, "1", None, True, float("nan"), float("inf"), [1]],
            "a number > 0",
        ),
        (Annotated[int, ">= 0"], [0, 3], [-1, 1.0, True, "3"], "a whole number >= 0"),
        (Annotated[float, "<= 2"], [2, -5.5], [2.1], "a number <= 2"),
        (Annotated[float, "in (0, 1]"], [1, 0.1], [0, 1.1], "a number in (0, 1]"),
        (
            BETAS,
            [[0.9, 0.99], (0, 0.5)],
            [[0.9], [0.9, 1.0], 0.9, None, ["a", 0.9]],
            "2 numbers in [0, 1)",
        ),
        (float, [1, 2.5, float("inf")], [float("nan"), True, "1"], "a number"),
        (bool, [True, False], [0, 1, "true", None], "true or false"),
        (str | None, ["a", None], [1, True], "text or null"),
        (int | str, [5, "5%"], [0.5, None], "a whole number or text"),
        (Literal["end", "start"], ["end"], ["middle", None, 0], "one of end, start"),
        (
            Literal[64, 32] | Literal["bf16-true", "64"] | None | Literal["bf16"],
            [64, "64", "bf16", None],
            ["bf", 16, True],
            "one of 64, 32, bf16-true, bf16 or null",
        ),
        (tuple[float, ...], [[], [1, 2.5]], [1, ["a"]], "a list"),
        (list[int], [[1, 2]], [[1.5], "12"], "a list"),
        (dict[str, int], [{"a": 1}], [[1], {"a": "x"}], "a mapping of names to a whole number"),
        (Any, [1, None, "x", ...], [], "something else"),
        (Annotated[int | str, "such as 5%"], [5, "5%"], [0.5], "a whole number or text such as 5%"),
    ],
    ids=str,
)
def test_accepts(annotation, good, bad, words):
    assert all(accepts(value, annotation) for value in good)
    assert not any(accepts(value, annotation) for value in bad)
    assert describe(annotation) == words


def test_check_names_what_is_wrong():
    def make(lr: POSITIVE, betas: BETAS = (0.9, 0.99)) -> None: ...

    check(make, {"lr": 1.0, "betas": (0.1, 0.2)})
    with pytest.raises(UsageError, match=r"^betas must be 2 numbers in \[0, 1\), got \(0.1,\)$"):
        check(make, {"lr": 1.0, "betas": (0.1,)})
