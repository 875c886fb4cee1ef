"""What optimizers of matrices do beside their rule: parts, shapes, failures, AdamW for the rest."""

from __future__ import annotations

import copy
import io
import logging
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from lit_optim import SOAP, AdamW, Muon, NorMuon, Shampoo
from lit_optim.errors import UsageError
from lit_optim.optimizers.base import linalg
from lit_optim.optimizers.base.matrixwise import Matrixwise
from lit_optim.optimizers.base.newton_schulz import POLYNOMIALS, orthogonalize
from tests.optimizers.cases_matrix import MATRIX
from tests.optimizers.running import class_of, difference

METHODS = sorted(MATRIX)


def drawn(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype))


def train(optimizer, params, first, last):
    for step in range(first, last):
        for index, p in enumerate(params):
            p.grad = drawn(*p.shape, seed=1000 * index + step, dtype=p.dtype).detach()
        optimizer.step()


def grouped(hidden, rest):
    return [
        {"params": hidden, "role": "hidden", "name": "matrices"},
        {"params": rest, "role": "vector", "name": "rest", "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("name", METHODS)
def test_the_rest_is_adamw(name):
    hidden, rest, alone = (
        [drawn(4, 5), drawn(3, 4)],
        [drawn(7), drawn(2, 6)],
        [drawn(7), drawn(2, 6)],
    )
    optimizer = class_of(name)(grouped(hidden, rest), lr=0.1, adamw_lr=0.03, adamw_betas=(0.8, 0.9))
    train(optimizer, [*hidden, *rest], 0, 8)
    adamw = torch.optim.AdamW(alone, lr=0.03, betas=(0.8, 0.9), weight_decay=0.0, foreach=False)
    for step in range(8):
        for index, p in enumerate(alone, 2):
            p.grad = drawn(*p.shape, seed=1000 * index + step).detach()
        adamw.step()
    assert difference(rest, alone) < 1e-14
    only = [drawn(4, 5), drawn(3, 4)]
    train(class_of(name)(only, lr=0.1), only, 0, 8)
    assert difference(hidden, only) < 1e-14


@pytest.mark.parametrize("name", METHODS)
def test_a_schedule_reaches_every_group_and_the_state_dict_is_one(name):
    def made():
        hidden, rest = [drawn(4, 5), drawn(4, 5, seed=1)], [drawn(7)]
        optimizer = class_of(name)(grouped(hidden, rest), lr=0.1)
        return optimizer, [*hidden, *rest]

    straight, expected = made()
    schedule = torch.optim.lr_scheduler.LambdaLR(straight, lambda step: 1 / (1 + step))
    for step in range(12):
        train(straight, expected, step, step + 1)
        schedule.step()
        if step == 5:
            file = io.BytesIO()
            torch.save(straight.state_dict(), file)
            kept = [p.detach().clone() for p in expected]
    for group, lr in zip(straight.param_groups, schedule.base_lrs, strict=True):
        assert group["lr"] == pytest.approx(lr / 13)
    resumed, params = made()
    for p, value in zip(params, kept, strict=True):
        p.data = value
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    schedule = torch.optim.lr_scheduler.LambdaLR(resumed, lambda step: 1 / (1 + step))
    schedule.last_epoch = 6
    for group, lr in zip(resumed.param_groups, schedule.base_lrs, strict=True):
        group["lr"] = lr * (1 / 7)
    for step in range(6, 12):
        train(resumed, params, step, step + 1)
        schedule.step()
    assert difference(params, expected) == 0


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_go_on_with_both_parts(name, duplicate):
    hidden, rest = [drawn(4, 5)], [drawn(7)]
    optimizer = class_of(name)(grouped(hidden, rest), lr=0.1)
    train(optimizer, [*hidden, *rest], 0, 3)
    twin = duplicate(optimizer)
    copies = [p for group in twin.param_groups for p in group["params"]]
    train(twin, copies, 3, 6)
    assert difference(copies, [*hidden, *rest]) > 0
    train(optimizer, [*hidden, *rest], 3, 6)
    assert difference(copies, [*hidden, *rest]) == 0


@pytest.mark.parametrize("name", METHODS)
def test_many_of_one_shape_are_each_as_if_alone(name, monkeypatch):
    settings = MATRIX[name][2][-1]
    together = [drawn(4, 5, seed=seed) for seed in range(5)]
    train(class_of(name)(together, **settings), together, 0, 12)
    monkeypatch.setattr("lit_optim.optimizers.base.matrix_step.AT_ONCE", {True: 1, False: 1})
    apart = [drawn(4, 5, seed=seed) for seed in range(5)]
    train(class_of(name)(apart, **settings), apart, 0, 12)
    assert difference(together, apart) < 1e-12


@pytest.fixture
def all_at_once(monkeypatch):
    """Sides are refreshed in the same update, whatever else there is."""
    name = "lit_optim.optimizers.base.matrix_states.take_turns"
    monkeypatch.setattr(name, lambda refreshes: [0] * len(refreshes))


@pytest.mark.parametrize("name", METHODS)
def test_a_split_parameter_is_its_parts(name, all_at_once):
    settings = MATRIX[name][2][-1]
    whole = drawn(12, 5)
    parts = [nn.Parameter(part.clone()) for part in whole.detach().chunk(3)]
    fused = class_of(name)([{"params": [whole], "role": "hidden", "split": 3}], **settings)
    single = class_of(name)(parts, **settings)
    for step in range(12):
        whole.grad = drawn(12, 5, seed=step).detach()
        for part, g in zip(parts, whole.grad.chunk(3), strict=True):
            part.grad = g
        fused.step()
        single.step()
    assert difference([whole], [torch.cat([*parts])]) < 1e-12


@pytest.mark.parametrize("name", METHODS)
def test_a_convolution_is_a_matrix(name):
    conv, matrix = drawn(4, 2, 3, 3), drawn(4, 2, 3, 3)
    flat = nn.Parameter(matrix.detach().flatten(1).clone())
    a, b = class_of(name)([conv]), class_of(name)([flat])
    for step in range(12):
        conv.grad = drawn(4, 2, 3, 3, seed=step).detach()
        flat.grad = conv.grad.flatten(1)
        a.step()
        b.step()
    assert torch.equal(conv.flatten(1), flat)


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_parameters_have_states_and_factors_in_float32(name):
    p = drawn(6, 5, dtype=torch.bfloat16)
    optimizer = class_of(name)([p])
    train(optimizer, [p], 0, 12)
    tensors = [value for value in optimizer.state[p].values() if torch.is_tensor(value)]
    assert tensors
    assert {value.dtype for value in tensors} == {torch.float32}
    assert p.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_refusals_are_one_line(name):
    make, label = class_of(name), class_of(name).__name__
    vector, matrix = drawn(5), drawn(4, 5)
    with pytest.raises(
        UsageError, match=r"needs hidden weight matrices, and there are none.*optimizer=adamw"
    ):
        make([{"params": [vector], "role": "vector"}])
    with pytest.raises(UsageError, match=rf"{label} updates hidden .*shape \[5\].*AdamW"):
        make([{"params": [vector], "role": "hidden"}])
    with pytest.raises(UsageError, match="state_dtype=int8 is for optimizers"):
        make([matrix], state_dtype="int8")
    with pytest.raises(UsageError, match="roles: no parameter is called 'heads'"):
        make([{"params": [matrix], "param_names": ["head"]}], roles={"heads": "other"})
    with pytest.raises(
        UsageError, match="roles must be a mapping of names to one of hidden, other"
    ):
        make([matrix], roles={"*": "hiden"})
    with pytest.raises(UsageError, match="adamw_lr must be a number >= 0"):
        make([matrix], adamw_lr=-1.0)


def test_patterns_change_who_takes_a_parameter():
    gate, weight, table = drawn(4, 5), drawn(5, 4), drawn(6, 4)
    groups = [
        {
            "params": [gate, weight],
            "param_names": ["0.gate", "0.weight"],
            "name": "hidden",
            "lr": 0.5,
        },
        {"params": [table], "param_names": ["table"], "name": "table", "role": "embedding"},
    ]
    optimizer = Muon(groups, lr=0.1, roles={"*.gate": "other", "table": "hidden"})
    told = [
        (g["name"], g["role"], type(optimizer.owner(g)), g["lr"]) for g in optimizer.param_groups
    ]
    assert told == [
        ("hidden.as_other", "other", AdamW, 0.5),
        ("hidden", "hidden", Muon, 0.5),
        ("table.as_hidden", "hidden", Muon, 0.1),
    ]


@pytest.mark.parametrize(
    ("make", "key", "value"),
    [
        (SOAP, "max_precondition_dim", 4),
        (Shampoo, "max_precondition_dim", 4),
        (Shampoo, "block_size", 2),
        (Shampoo, "block_size", None),
    ],
)
def test_what_decides_on_the_states_does_not_change_once_they_are_there(make, key, value):
    p = drawn(4, 6)
    given = {"block_size": 3} if make is Shampoo else {}
    optimizer = make([{"params": [p], "role": "hidden"}], lr=0.01, **given)
    before = optimizer.param_groups[0][key]
    optimizer.param_groups[0][key] = value
    optimizer.param_groups[0][key] = before
    train(optimizer, [p], 0, 2)
    optimizer.param_groups[0][key] = value
    with pytest.raises(UsageError, match=f"{key}.* has changed since the first step"):
        train(optimizer, [p], 2, 3)
    optimizer.param_groups[0] |= {key: before, "precondition_frequency": 3}
    train(optimizer, [p], 2, 5)


@pytest.mark.parametrize("make", [SOAP, Shampoo])
def test_a_failed_decomposition_is_tried_in_float64_then_the_old_one_is_kept(
    make, monkeypatch, caplog
):
    calls = []
    real = torch.linalg.eigh

    def fails(dtypes):
        def eigh(a):
            calls.append(a.dtype)
            if a.dtype in dtypes:
                raise torch.linalg.LinAlgError("did not converge")
            return real(a)

        return eigh

    def trained(dtypes):
        monkeypatch.setattr(torch.linalg, "eigh", fails(dtypes))
        p = drawn(4, 5, dtype=torch.float32)
        groups = [{"params": [p], "role": "hidden"}]
        optimizer = make(groups, precondition_frequency=2, lr=0.01)
        with caplog.at_level(logging.WARNING, "lit_optim"):
            train(optimizer, [p], 0, 6)
        return p, optimizer

    fine, _ = trained(())
    again, optimizer = trained((torch.float32,))
    assert torch.float64 in calls
    assert optimizer.failures == 0
    assert torch.allclose(fine, again, atol=1e-4)
    assert not caplog.records
    kept, optimizer = trained((torch.float32, torch.float64))
    assert optimizer.failures >= 2  # the left and the right side
    assert kept.isfinite().all()
    assert not torch.equal(kept, drawn(4, 5, dtype=torch.float32))
    assert len(caplog.records) == 1
    assert "the last one is kept" in caplog.text


def test_only_the_matrix_that_failed_keeps_its_own(monkeypatch):
    real = torch.linalg.eigh

    def eigh(a):
        if (a.diagonal(dim1=-2, dim2=-1).sum(-1) > 1e3).any():
            raise torch.linalg.LinAlgError("did not converge")
        return real(a)

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    fine = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    values, vectors = linalg.eigen(torch.stack([fine, fine * 1e6]))
    assert torch.equal(values[0], torch.tensor([1.0, 2.0, 3.0]))
    assert vectors[1].isnan().all()


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (32, 32)])
@pytest.mark.parametrize("coefficients", sorted(POLYNOMIALS))
def test_singular_values_come_near_one(coefficients, shape):
    x = drawn(3, *shape, seed=5).detach()
    out = orthogonalize(x, coefficients, None, 1e-7)
    spectrum = torch.linalg.svdvals(out)
    low, high = {
        "original": (0.6, 1.25),
        "quintic": (0.85, 1.15),
        "polar_express": (0.855, 1.145),
        "precise": (1 - 1e-6, 1 + 1e-6),
    }[coefficients]
    wide = torch.linalg.svdvals(x) > 0.02 * torch.linalg.matrix_norm(x)[:, None]
    assert low < spectrum[wide].min()
    assert spectrum.max() < high
    if coefficients == "precise":
        u, _, vt = torch.linalg.svd(x, full_matrices=False)
        if wide.all():
            assert (out - u @ vt).abs().max() < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.5, "nesterov": False, "weight_decay": 0.1},
        {"lr": 0.1, "adjust_lr_fn": "match_rms_adamw", "eps": 2.0}
        | {"ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 3},
    ],
    ids=str,
)
def test_muon_equals_torchs_where_that_is_not_rounded_to_bfloat16(settings, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    mine, theirs = [drawn(6, 4), drawn(4, 6)], [drawn(6, 4), drawn(4, 6)]
    train(Muon(mine, **settings), mine, 0, 25)
    train(torch.optim.Muon(theirs, **{"lr": 0.02, "weight_decay": 0.0} | settings), theirs, 0, 25)
    assert difference(mine, theirs) < 1e-12


@pytest.mark.parametrize("frequency", [30, 10])
def test_soap_equals_a_port_of_the_authors(frequency, all_at_once):
    module = pytest.importorskip("pytorch_optimizer")
    # not narrower: eigenvectors of an eigenvalue that comes twice, as 0 may, are anybody's choice
    mine, theirs = [drawn(5, 4), drawn(4, 5)], [drawn(5, 4), drawn(4, 5)]
    settings = {"lr": 0.01, "weight_decay": 0.0, "precondition_frequency": frequency}
    train(SOAP(mine, **settings), mine, 0, 25)
    train(module.SOAP(theirs, **settings), theirs, 0, 25)
    # the port does its QR in float32
    assert difference(mine, theirs) < (1e-10 if frequency > 25 else 1e-5)


@pytest.mark.parametrize("make", [Muon, NorMuon, partial(SOAP, lr=0.02), partial(Shampoo, lr=0.02)])
def test_deep_linear_networks_are_learnt(make):
    """Three square layers are to become a matrix whose condition is 100."""
    generator = torch.Generator().manual_seed(0)
    q, r = (torch.linalg.qr(torch.randn(8, 8, generator=generator))[0] for _ in range(2))
    target = q @ torch.diag(torch.logspace(0, -2, 8)) @ r
    layers = [
        nn.Parameter(torch.eye(8) + 0.05 * torch.randn(8, 8, generator=generator)) for _ in "abc"
    ]
    optimizer = make(layers)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 300)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = (layers[0] @ layers[1] @ layers[2] - target).square().sum()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]


def test_a_matrix_on_meta_tells_how_large_its_state_is():
    p = nn.Parameter(torch.empty(12, 5, device="meta"))
    state = SOAP([drawn(4, 5)]).new_state(p, {"max_precondition_dim": 10, "split": 2})
    sizes = {name: tuple(value.shape) for name, value in state.items()}
    assert sizes == {
        "exp_avg": (12, 5),
        "exp_avg_sq": (12, 5),
        "left": (2, 6, 6),
        "left_basis": (2, 6, 6),
        "right": (2, 5, 5),
        "right_basis": (2, 5, 5),
    }


def test_factors_follow_in_strips(monkeypatch):
    monkeypatch.setattr(linalg, "STRIP", 3)
    x, factor = drawn(2, 8, 5).detach(), torch.zeros(2, 8, 8, dtype=torch.float64)
    for weight in (1.0, 0.25):
        linalg.update_factor_(factor, x * weight, weight)
    expected = 0.75 * (x @ x.mT) + 0.25 * (x @ x.mT) / 16
    assert np.allclose(linalg.fill_symmetric_(factor), expected, atol=1e-12)


def test_every_method_is_tested_here():
    assert all(issubclass(class_of(name), Matrixwise) for name in METHODS)
