"""What was added to torch's own classes; what they compute is torch's."""

from __future__ import annotations

import copy
import io
import pickle
from itertools import islice

import numpy as np
import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.optimizers.base.torch_own import TorchOptimizer
from lit_optim.optimizers.lbfgs import LBFGS
from lit_optim.optimizers.muon_torch import MuonTorch
from lit_optim.optimizers.sparse_adam import SparseAdam
from tests.optimizers import oracles
from tests.optimizers.cases import CASES
from tests.optimizers.running import NAMES, class_of, difference, gradients, parameters

MUON, LBFGS_, SPARSE = (CASES[name].settings for name in ("muon_torch", "lbfgs", "sparse_adam"))


def matrix(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_they_are_torchs():
    own = [name for name in NAMES if not issubclass(class_of(name), OptimizerBase)]
    for name in own:
        cls, theirs = class_of(name), CASES[name].counterpart
        assert cls.__bases__[0] is TorchOptimizer
        assert issubclass(cls.__bases__[1], theirs), f"{name}: neither ours nor torch's"


# Muon


@pytest.mark.parametrize("shape", [(6, 3), (3, 8), (5, 5)])
@pytest.mark.parametrize("settings", MUON, ids=str)
def test_muon_equals_the_post(settings, shape):
    """Each update to 5 %: bfloat16 has 8 bits, and the iteration enlarges what it rounds off."""

    def updates(**settings):
        return np.diff([start, *oracles.muon_torch(start, steps, **settings)], axis=0)

    def off(found):
        return np.linalg.norm(found - expected, axis=(1, 2)) / np.linalg.norm(expected, axis=(1, 2))

    start, *steps = matrix(9, *shape).numpy()
    p = torch.nn.Parameter(torch.tensor(start))
    optimizer, walked, expected = MuonTorch([p], **settings), [start], updates(**settings)
    for g in steps:
        p.grad = torch.tensor(g)
        optimizer.step()
        walked.append(p.detach().numpy().copy())
    assert off(np.diff(walked, axis=0)).max() < 0.05
    for left_out in settings:  # any of which makes more of a difference
        others = {key: value for key, value in settings.items() if key != left_out}
        assert off(updates(**others)).max() > 0.05, left_out


@pytest.mark.parametrize("settings", MUON, ids=str)
def test_muon_passes_its_arguments_on(settings):
    def trained(make):
        params = [torch.nn.Parameter(matrix(6, 3)), torch.nn.Parameter(matrix(3, 8))]
        groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.02, "ns_steps": 2}]
        optimizer = make(groups, **settings)
        for step in range(3):
            gradients(params, step + 5)
            optimizer.step()
        return params

    assert difference(trained(MuonTorch), trained(torch.optim.Muon)) == 0


@pytest.mark.parametrize(
    ("params", "called"),
    [
        ([{"params": [matrix(2, 2), matrix(3)], "param_names": ["w", "out.bias"]}], "out.bias"),
        ([("w", matrix(2, 2)), ("out.bias", matrix(3))], "out.bias"),
        ([matrix(2, 2), matrix(3)], "number 1"),
    ],
)
def test_muon_names_what_is_no_matrix(params, called):
    with pytest.raises(UsageError) as error:
        MuonTorch(params)
    said = one_line(error)
    assert f"parameter {called} has shape (3,)" in said
    assert "a model of matrices only, without biases, fits too" in said


def test_muon_ranges():
    for wrong in ({"ns_steps": 0}, {"ns_steps": 100}, {"adjust_lr_fn": "mine"}, {"momentum": -0.1}):
        with pytest.raises(UsageError, match=next(iter(wrong))) as error:
            MuonTorch([matrix(2, 2)], **wrong)
        one_line(error)
        with pytest.raises(UsageError, match=next(iter(wrong))):
            MuonTorch([{"params": [matrix(2, 2)], **wrong}])


# L-BFGS


def rosenbrock(make, **settings):
    """The optimizer at (-1.2, 1), the start of everybody's example; the minimum is at (1, 1)."""
    x = torch.nn.Parameter(torch.tensor(-1.2, dtype=torch.float64))
    y = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    return make(x, y, **settings), closure_of([x, y]), [x, y]


def closure_of(params):
    x, y = params

    def closure():
        x.grad = y.grad = None
        loss = (1 - x) ** 2 + 100 * (y - x**2) ** 2
        loss.backward()
        return loss

    return closure


def ours(x, y, **settings):
    groups = [{"name": "decay", "params": [x]}, {"params": [y], "weight_decay": 0.0}]
    return LBFGS(groups, **settings)


def torchs(x, y, **settings):
    return torch.optim.LBFGS([x, y], **settings)


@pytest.mark.parametrize("settings", LBFGS_, ids=str)
def test_lbfgs_passes_its_arguments_on(settings):
    results = []
    for make in (ours, torchs):
        optimizer, closure, params = rosenbrock(make, **settings)
        losses = [optimizer.step(closure).item() for _ in range(4)]
        results.append((losses, [p.item() for p in params]))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "settings", [{"max_iter": 4}, {"max_iter": 1}, {"lr": 0.5, "max_iter": 7, "history_size": 2}]
)
def test_lbfgs_equals_the_book(settings):
    """On log cosh of a few sums: convex, not quadratic; down to a 1e-6 of its first slope."""
    a, b = matrix(9, 5), matrix(9, seed=1)
    x, y = torch.nn.Parameter(matrix(2, seed=2)), torch.nn.Parameter(matrix(3, 1, seed=3))
    optimizer = ours(x, y, tolerance_grad=0, tolerance_change=0, **settings)

    def flat():
        return np.concatenate([p.detach().numpy().ravel() for p in (x, y)])

    def closure():
        optimizer.zero_grad()
        loss = (a @ torch.cat([x, y[:, 0]]) + b).cosh().log().sum()
        loss.backward()
        return loss

    def gradient(at):
        return a.numpy().T @ np.tanh(a.numpy() @ at + b.numpy())

    oracle_settings = {k: v for k, v in settings.items() if k != "max_iter"}
    expected = oracles.lbfgs(flat(), gradient, **oracle_settings)
    first = np.abs(gradient(flat())).max()
    for _ in range(28 // settings["max_iter"]):
        optimizer.step(closure)
        *_, there = islice(expected, settings["max_iter"])
        assert np.abs(flat() - there).max() <= 1e-10
    assert np.abs(gradient(there)).max() < 1e-6 * first


def test_lbfgs_finds_the_minimum():
    optimizer, closure, params = rosenbrock(ours, line_search_fn="strong_wolfe")
    for _ in range(3):
        optimizer.step(closure)
    assert [p.item() for p in params] == pytest.approx([1, 1], abs=1e-3)


def test_lbfgs_has_one_group():
    x, y = torch.nn.Parameter(matrix(2)), torch.nn.Parameter(matrix(3))
    (group,) = ours(x, y).param_groups
    assert group["name"] == "all"
    assert group["params"] == [x, y]
    (group,) = LBFGS([("x", x), ("y", y)]).param_groups
    assert group["param_names"] == ["x", "y"]
    for own in ({"lr": 0.1}, {"weight_decay": 0.1}, {"lrr": 1}):
        with pytest.raises(UsageError, match=f"group head sets {next(iter(own))}") as error:
            LBFGS([{"params": [x]}, {"params": [y], "name": "head", **own}])
        one_line(error)
    with pytest.raises(UsageError, match="one param group"):
        LBFGS([x]).add_param_group({"params": [y]})


def test_lbfgs_needs_a_closure():
    with pytest.raises(UsageError, match="LBFGS must be given a closure") as error:
        LBFGS([torch.nn.Parameter(matrix(2))]).step()
    one_line(error)


def test_lbfgs_continues_from_a_copy_or_its_state():
    def saved_and_loaded(optimizer):
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        twin = LBFGS([p.detach().clone() for p in optimizer.param_groups[0]["params"]])
        for p in twin.param_groups[0]["params"]:
            p.requires_grad_()
        twin.load_state_dict(torch.load(file))
        return twin

    for duplicate in (copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o)), saved_and_loaded):
        optimizer, closure, params = rosenbrock(ours, max_iter=3)
        optimizer.step(closure)
        twin = duplicate(optimizer)
        copies = twin.param_groups[0]["params"]
        before = [p.item() for p in params]
        for _ in range(2):
            optimizer.step(closure)
            twin.step(closure_of(copies))
        assert [p.item() for p in copies] == [p.item() for p in params] != before


# SparseAdam


def rows(step, p):
    """A gradient with a zero row, another each time."""
    g = matrix(*p.shape, seed=step)
    if g.ndim:
        g[step % len(g)] = 0
    return g


@pytest.mark.parametrize("settings", SPARSE, ids=str)
def test_sparse_adam_takes_dense_gradients_as_sparse_ones(settings):
    def trained(make, sparse):
        params = parameters()
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.02, "eps": 0.1}]
        optimizer = make(groups, **settings)
        for step in range(10):
            for p in params:
                g = rows(step, p)
                p.grad = g.to_sparse() if sparse else g
            optimizer.step()
        return params

    theirs = trained(torch.optim.SparseAdam, True)
    assert difference(trained(SparseAdam, False), theirs) == 0
    assert difference(trained(SparseAdam, True), theirs) == 0


@pytest.mark.parametrize("settings", SPARSE, ids=str)
def test_sparse_adam_equals_the_paper_where_there_are_gradients(settings):
    for start in parameters():
        steps = [
            rows(step, start) * (matrix(*start.shape, seed=-step) > 0) for step in range(1, 31)
        ]
        p = torch.nn.Parameter(start.detach().clone())
        optimizer = SparseAdam([p], **settings)
        oracle = oracles.sparse_adam(start.detach().numpy(), [g.numpy() for g in steps], **settings)
        for g, expected in zip(steps, oracle, strict=True):
            p.grad = g
            optimizer.step()
            assert np.abs(p.detach().numpy() - expected).max() <= 1e-12


def test_sparse_adam_leaves_alone_what_has_no_gradient():
    p = torch.nn.Parameter(matrix(4, 3))
    optimizer = SparseAdam([p], lr=0.1)
    for step in range(8):
        p.grad = g = rows(step, p)
        values, version = g.clone(), g._version
        state = optimizer.state[p]
        before = [
            p.detach().clone(),
            *(state[k].clone() for k in ("exp_avg", "exp_avg_sq") if state),
        ]
        optimizer.step()
        assert p.grad is g
        assert g._version == version
        assert torch.equal(g, values)
        after = [p, state["exp_avg"], state["exp_avg_sq"]]
        for old, new in zip(before, after, strict=False):
            assert torch.equal(old[step % 4], new[step % 4])
            assert not torch.equal(old, new)


def test_sparse_adam_gives_gradients_back_after_an_error():
    good, bad = torch.nn.Parameter(matrix(2)), torch.nn.Parameter(matrix(2))
    optimizer = SparseAdam([good, bad])
    good.grad, bad.grad = g, _ = matrix(2), matrix(2)
    optimizer.state[bad] = {"step": 1}  # lacks its averages
    with pytest.raises(KeyError):
        optimizer.step()
    assert good.grad is g


def test_sparse_adam_steps_after_the_closure():
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    head = torch.nn.Linear(2, 1)
    optimizer = SparseAdam([*embedding.parameters(), *head.parameters()], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (head(embedding(torch.tensor([1, 3]))) ** 2).sum()
        loss.backward()
        return loss

    before = embedding.weight.detach().clone()
    first = optimizer.step(closure).item()
    assert optimizer.step(closure).item() < first
    moved = (embedding.weight != before).any(dim=1)
    assert moved.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("make", "theirs"), [(SparseAdam, torch.optim.SparseAdam), (LBFGS, torch.optim.LBFGS)]
)
def test_hooks_of_a_step_run_once(make, theirs):
    p = torch.nn.Parameter(matrix(2))
    theirs([p])  # torch wraps the step of a class that has been made once
    optimizer = make([p])
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert calls == [1]


def test_keys_that_are_not_for_the_user_are_refused():
    with pytest.raises(UsageError, match="SparseAdam has no 'weight_decay'"):
        SparseAdam([{"params": [matrix(2)], "weight_decay": 0.1}])
