"""What constructors take and refuse, beside torch's; and rules at an lr of 0."""

from __future__ import annotations

import warnings

import pytest
import torch

from tests.optimizers.running import (
    NAMES,
    WALKS,
    class_of,
    defaults_of,
    gradients,
    made_by,
    parameters,
)

#: torch's class for each name that has one
TORCHS = {
    "adadelta": torch.optim.Adadelta,
    "adafactor": torch.optim.Adafactor,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "adamw": torch.optim.AdamW,
    "asgd": torch.optim.ASGD,
    "lbfgs": torch.optim.LBFGS,
    "muon_torch": torch.optim.Muon,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "rprop": torch.optim.Rprop,
    "sgd": torch.optim.SGD,
    "sparse_adam": torch.optim.SparseAdam,
}
VALUES = [-1.5, -1.0, -1e-3, 0, 0.0, 1e-300, 0.5, 1 - 1e-7, 1, 1.0, 1.5, 2, 1e30]
#: what torch takes although nothing can come of it: no iteration, no norm, sizes out of order
SENSELESS = {
    ("lbfgs", "max_iter"), ("lbfgs", "max_eval"), ("lbfgs", "history_size"),
    ("muon_torch", "eps"), ("rprop", "step_sizes"), ("muon_torch", "ns_steps"),
}  # fmt: skip


def takes(make, **settings):
    try:
        make([torch.nn.Parameter(torch.ones(2, 2))], **settings)
    except (ValueError, TypeError, RuntimeError):
        return False
    return True


def numbers(name):
    """Arguments that are a number or several, and values for them."""
    for argument, default in defaults_of(class_of(name)).items():
        if isinstance(default, float) or argument in ("lr", "max_iter"):
            yield from ((argument, value) for value in VALUES)
        elif isinstance(default, tuple) and all(isinstance(x, float | None) for x in default):
            for place in range(len(default)):
                for value in map(float, VALUES):  # torch wants both betas to be floats
                    yield argument, (*default[:place], value, *default[place + 1 :])


@pytest.mark.parametrize("name", TORCHS)
def test_takes_what_torch_takes(name):
    for argument, value in numbers(name):
        if (name, argument) in SENSELESS:
            continue
        ours, theirs = (takes(make, **{argument: value}) for make in (class_of(name), TORCHS[name]))
        assert ours == theirs, (argument, value)


def parameter(*shape):
    return torch.nn.Parameter(torch.ones(*shape))


P, Q = parameter(2, 2), parameter(2, 2)
#: what is no list of parameters, of groups or of names with parameters
BAD = {
    "some have names": lambda: [("p", P), Q],
    "the last has a name": lambda: [P, ("q", Q)],
    "numbers": lambda: [1, 2],
    "nothing": lambda: [None],
    "names": lambda: ["p", "q"],
    "names of names": lambda: [("p", "q")],
    "the other way": lambda: [(P, "p")],
    "none": lambda: [],
    "one tensor": lambda: P,
    "a number": lambda: 3,
    "null": lambda: None,
    "a set in a group": lambda: [{"params": {P, Q}}],
    "a group without": lambda: [{"lr": 1.0}],
    "a group and a parameter": lambda: [{"params": [P]}, Q],
    "a parameter and a group": lambda: [P, {"params": [Q]}],
    "no leaf": lambda: [P * 2],
    "an array": lambda: [P.detach().numpy()],
    "in two groups": lambda: [{"params": [P]}, {"params": [P]}],
    "some in a group have names": lambda: [{"params": [("p", P), Q]}],
    "null in a group": lambda: [{"params": None}],
    "a group alone": lambda: {"params": [P]},
    "text": lambda: "p",
}


def refusal(make, params, **settings):
    try:
        make(params, **settings)
    except Exception as error:
        return next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
    return None


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", NAMES)
def test_what_are_no_parameters_is_refused_as_torch_does(name, kind):
    expected = refusal(torch.optim.SGD, BAD[kind]())
    assert expected is not None
    assert refusal(class_of(name), BAD[kind](), lr=0.1) in (
        expected, *[ValueError] * (name == "adafactor_hf")  # an lr wants relative_step=false
    )  # fmt: skip


def test_a_parameter_twice_is_as_in_torch():
    for make in (class_of("lbfgs"), torch.optim.LBFGS, class_of("sgd"), torch.optim.SGD):
        with pytest.warns(UserWarning, match="duplicate parameters"):
            make([P, P])


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize("options", [{}, {"decay": "independent"}, {"decay": "corrected"}], ids=str)
@pytest.mark.parametrize("executor", ["native", "torch"])
def test_an_lr_of_0_moves_nothing(name, options, executor):
    settings = {"lr": 0.0, "executor": executor} | options
    known = defaults_of(class_of(name))
    settings |= {k: 0.1 for k in ("weight_decay", "weight_decay_1d") if k in known}
    if name == "adafactor_hf":
        settings["relative_step"] = False
    params = parameters()
    before = [p.detach().clone() for p in params]
    if not takes(made_by(name), **settings):
        pytest.skip("the option is not for it, or it has no kernel")
    optimizer = made_by(name)(params, **settings)
    for step in (9, 10, 11):
        gradients(params, step)
        optimizer.step()
    moved = 1e-5 if name == "rprop" else 0.0  # the lr is its first step only, never below 1e-6
    for p, start in zip(params, before, strict=True):
        torch.testing.assert_close(p.detach(), start, rtol=0, atol=moved)


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize("decay", ["decoupled", "independent", "corrected"])
def test_an_lr_that_is_set_to_0_and_back(name, decay):
    known = defaults_of(class_of(name))
    settings = {"weight_decay": 0.1} if "weight_decay" in known else {}
    if not takes(made_by(name), **settings, decay=decay):
        pytest.skip("the option is not for it")
    params = parameters()
    optimizer = made_by(name)(params, **settings, decay=decay)
    lrs = [group["lr"] for group in optimizer.param_groups]
    for step in range(9, 18):
        share = 0.0 if step in (12, 13) else 1.0
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = share * lr
        gradients(params, step)
        optimizer.step()
        assert all(p.isfinite().all() for p in params)


def sparse(values, places, shape):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.sparse_coo_tensor(places, values, shape, check_invariants=True)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"maximize": True}, {"eps": 0.0}])
@pytest.mark.parametrize("name", ["sgd", "adagrad", "momentum"])
def test_sparse_gradients_are_taken_as_torch_takes_them(name, settings, dims):
    if not all(key in (*defaults_of(class_of(name)), "maximize") for key in settings):
        pytest.skip("it has no such argument")
    generator, found = torch.Generator(), []
    torchs = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad}
    theirs = torchs.get(name, lambda p, **hyper: torch.optim.SGD(p, **{"momentum": 0.9} | hyper))
    for make in (class_of(name), theirs):
        generator.manual_seed(0)
        p, other = parameter(6, 3), parameter(2)
        optimizer = make([p, other], lr=0.1, **settings)
        for _ in range(5):
            places = [torch.randint(0, n, (4,), generator=generator) for n in (6, 3)[:dims]]
            values = torch.randn((4,) if dims == 2 else (4, 3), generator=generator)
            p.grad = sparse(values, torch.stack(places), (6, 3))
            other.grad = torch.ones(2)
            optimizer.step()
        assert p.grad.is_sparse
        found.append(torch.cat([p.detach().flatten(), other.detach()]))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"weight_decay": 0.1}, {"cautious": True}, {"state_dtype": "int8"}, {"executor": "native"}],
    ids=str,
)
@pytest.mark.parametrize("name", ["sgd", "adagrad"])
def test_a_sparse_gradient_is_the_dense_one_under_any_option(name, options):
    found = []
    for as_it_is in (True, False):
        p = parameter(6, 3)
        optimizer = class_of(name)([p], lr=0.1, **options)
        for step in range(3):
            places, values = torch.tensor([[0, 2, 2 + step]]), torch.ones(3, 3)
            gradient = sparse(values, places, (6, 3))
            p.grad = gradient if as_it_is else gradient.to_dense()
            optimizer.step()
        found.append(p.detach())
    assert torch.equal(*found)
