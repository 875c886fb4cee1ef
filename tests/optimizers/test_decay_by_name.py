"""AdamWeightDecay: the names of parameters say which of them are decayed."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.optimizers.adam_weight_decay import AdamWeightDecay
from tests.optimizers import oracles

NAMES = ["embed.weight", "norm.weight", "norm.bias", "head.weight", "head.bias"]
NORM_AND_BIAS = ["norm", "bias$"]


def named():
    return [(name, torch.nn.Parameter(torch.tensor(1.3, dtype=torch.float64))) for name in NAMES]


def grouped(**own):
    pairs = named()
    return {"params": [p for _, p in pairs], "param_names": [name for name, _ in pairs], **own}


def laid_out(optimizer):
    return {group.get("name"): group["param_names"] for group in optimizer.param_groups}


@pytest.mark.parametrize(
    ("include", "exclude", "decayed"),
    [
        (None, None, NAMES),
        ([], [], NAMES),
        (None, NORM_AND_BIAS, ["embed.weight", "head.weight"]),
        (["embed"], None, NAMES),  # what neither fits is decayed
        (["head"], NORM_AND_BIAS, ["embed.weight", "head.weight", "head.bias"]),
        (["^norm.*t$"], ["."], ["norm.weight"]),
        (None, ["."], []),
        (None, ["absent"], NAMES),
    ],
    ids=str,
)
def test_patterns_decide(include, exclude, decayed):
    pairs = named()
    optimizer = AdamWeightDecay(
        pairs,
        lr=0.1,
        weight_decay=0.3,
        include_in_weight_decay=include,
        exclude_from_weight_decay=exclude,
    )
    sequence = torch.randn(20, generator=torch.Generator().manual_seed(0)).tolist()
    for g in sequence:
        for _, p in pairs:
            p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
    for name, p in pairs:
        decay = 0.3 if name in decayed else 0.0
        *_, last = oracles.adam_weight_decay(1.3, sequence, lr=0.1, weight_decay=decay)
        assert p.item() == pytest.approx(last, abs=1e-12), name
    assert all(group["params"] for group in optimizer.param_groups)


def test_names_of_the_parts():
    kept, rest = ["embed.weight", "head.weight"], ["norm.weight", "norm.bias", "head.bias"]
    for group in (grouped(), grouped(name="all"), {"params": iter(named())}):
        optimizer = AdamWeightDecay([group], exclude_from_weight_decay=NORM_AND_BIAS)
        assert laid_out(optimizer) == {"decay": kept, "no_decay": rest}
    optimizer = AdamWeightDecay(
        [grouped(name="body", lr=0.5, weight_decay=0.2), grouped(name="rest", weight_decay=0.0)],
        exclude_from_weight_decay=NORM_AND_BIAS,
    )
    assert laid_out(optimizer) == {"body": kept, "body.no_decay": rest, "rest": NAMES}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0, 0.0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5, 1e-3]
    optimizer = AdamWeightDecay([grouped(name="all")], exclude_from_weight_decay=["."])
    assert laid_out(optimizer) == {"no_decay": NAMES}
    optimizer = AdamWeightDecay([grouped(name="all")], exclude_from_weight_decay=["absent"])
    assert laid_out(optimizer) == {"all": NAMES}


def test_what_is_included_is_decayed_in_a_group_without_decay():
    optimizer = AdamWeightDecay(
        [grouped(name="rest", weight_decay=0.0)],
        weight_decay=0.3,
        include_in_weight_decay=["head"],
    )
    assert laid_out(optimizer) == {"rest.decay": NAMES[3:], "rest": NAMES[:3]}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


def test_names_are_not_needed_without_patterns():
    (group,) = AdamWeightDecay([p for _, p in named()]).param_groups
    assert "param_names" not in group


def test_groups_that_are_added_later_are_parted_too():
    made = AdamWeightDecay(named(), exclude_from_weight_decay=NORM_AND_BIAS)
    for duplicate in (copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
        optimizer = duplicate(made)
        optimizer.add_param_group(grouped(name="new"))
        assert list(laid_out(optimizer)) == ["decay", "no_decay", "new", "new.no_decay"]


def test_refusals():
    plain = [p for _, p in named()]
    short = {"params": plain, "param_names": NAMES[:2]}
    for params in (plain, [{"params": plain}], [grouped(), {"params": plain}], [short]):
        with pytest.raises(UsageError, match="need names of parameters") as error:
            AdamWeightDecay(params, exclude_from_weight_decay=["bias"])
        assert "\n" not in str(error.value)
    for key in ("include_in_weight_decay", "exclude_from_weight_decay"):
        for bad, message in [
            (["bias", "("], r": '\(' is not a regular expression: "),
            (["a{9999999999999999999}"], ": 'a.*' is not a regular expression: "),
            ("bias", " must be a list or null, got 'bias'"),
            ([1], r" must be a list or null, got \[1\]"),
        ]:
            with pytest.raises(UsageError, match=f"^{key}{message}") as error:
                AdamWeightDecay(named(), **{key: bad})
            assert "\n" not in str(error.value)
        with pytest.raises(UsageError, match=f"has no '{key}'"):
            AdamWeightDecay([grouped(**{key: ["bias"]})])
