"""Paths of a race: the real optimizers, compared with loops written out here and with torch."""

from __future__ import annotations

import math

import pytest
import torch

from lit_optim.config.places import listed_choices
from lit_optim.errors import UsageError
from lit_optim.race.landscapes import LANDSCAPES
from lit_optim.race.paths import LRS, Path, find_entrants, follow_path, trace

ROSENBROCK = LANDSCAPES["rosenbrock"]
NAMES = [name for name in listed_choices("optimizer") if name != "custom"]


def path_of(*lines, landscape=ROSENBROCK, start=None, steps=20):
    [entrant] = find_entrants(list(lines), steps)
    return follow_path(entrant, landscape, start or landscape.start, steps)


def gradient_descent(landscape, lrs):
    x, y = landscape.start
    points = [(x, y)]
    for lr in lrs:
        dx, dy = landscape.gradient(x, y)
        x, y = x - lr * dx, y - lr * dy
        points.append((x, y))
    return points


def assert_same(points, expected):
    assert len(points) == len(expected)
    for point, other in zip(points, expected, strict=True):
        assert point == pytest.approx(other, rel=1e-9)


def test_sgd_is_gradient_descent():
    path = path_of("optimizer=sgd", "optimizer.lr=1e-3")
    assert_same(path.points, gradient_descent(ROSENBROCK, [1e-3] * 20))
    assert path.losses == [ROSENBROCK.value(x, y) for x, y in path.points]
    assert (path.lr, path.tried, path.evaluations) == (1e-3, 1, 20)


def test_schedule_runs_over_the_steps_of_the_race():
    path = path_of(
        "optimizer=sgd", "optimizer.lr=1e-3", "scheduler=linear", "scheduler.step_alignment=start"
    )
    assert_same(path.points, gradient_descent(ROSENBROCK, [1e-3 * (1 - t / 20) for t in range(20)]))


def test_schedule_of_another_hyperparameter():
    steady = path_of("optimizer=momentum", "optimizer.lr=1e-3", "scheduler=constant")
    lines = ("optimizer=momentum", "optimizer.lr=1e-3", "scheduler=constant")
    falls = path_of(*lines, "schedules={momentum: [{shape: constant, from: 0}]}")
    assert_same(falls.points, gradient_descent(ROSENBROCK, [1e-3] * 20))
    assert steady.points[5] != pytest.approx(falls.points[5])


def test_plateau_follows_the_loss():
    lines = ("optimizer=sgd", "optimizer.lr=1e-3", "scheduler=plateau", "scheduler.patience=0")
    path = path_of(*lines, "scheduler.factor=0.5", "scheduler.threshold=0.9", steps=4)
    # no loss is better than the last by 90 %, so that each one halves the lr of the next step
    assert_same(path.points, gradient_descent(ROSENBROCK, [1e-3, 1e-3, 5e-4, 2.5e-4]))


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "adagrad", "nadam"])
def test_paths_are_those_of_torch(name):
    path = path_of(f"optimizer={name}", "optimizer.lr=0.05")
    classes = {"adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "adagrad": "Adagrad"}
    point = torch.tensor(ROSENBROCK.start, dtype=torch.float64, requires_grad=True)
    theirs = getattr(torch.optim, classes.get(name, "NAdam"))([point], lr=0.05)
    expected = [ROSENBROCK.start]
    for _ in range(20):
        theirs.zero_grad()
        ROSENBROCK.value(*point).backward()
        theirs.step()
        expected.append(tuple(point.tolist()))
    assert_same(path.points, expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_moves(name):
    path = path_of(f"optimizer={name}", landscape=LANDSCAPES["quadratic"], steps=8)
    assert path.points[-1] != path.points[0]
    assert len(path.points) == len(path.losses) == 9 or path.has_diverged
    assert min(path.losses) < path.losses[0]


def test_muon_normalizes_the_only_row_of_its_matrix():
    lines = (
        "optimizer=muon",
        "optimizer.lr=0.1",
        "optimizer.momentum=0",
        "optimizer.nesterov=false",
    )
    path = path_of(*lines, "optimizer.ns_coefficients=precise", steps=1)
    dx, dy = ROSENBROCK.gradient(*ROSENBROCK.start)
    norm = math.hypot(dx, dy)
    x, y = ROSENBROCK.start
    expected = (x - 0.1 * dx / norm, y - 0.1 * dy / norm)
    assert path.points[1] == pytest.approx(expected, rel=1e-4)


def test_averaging_shows_the_weights_that_are_evaluated():
    path = path_of("optimizer=schedule_free_sgd", "optimizer.lr=1e-3", steps=3)
    # x, the average of z: the first two steps are those of a point that is evaluated at y
    z = y = x = torch.tensor(ROSENBROCK.start, dtype=torch.float64)
    expected = [tuple(x.tolist())]
    for t in range(1, 4):
        y = 0.1 * z + 0.9 * x
        z = z - 1e-3 * torch.tensor(ROSENBROCK.gradient(*y.tolist()), dtype=torch.float64)
        x = x + (z - x) / t
        expected.append(tuple(x.tolist()))
    assert_same(path.points, expected)


def test_wrapper_goes_around():
    plain = path_of("optimizer=sgd", "optimizer.lr=1e-3")
    sam = path_of("optimizer=sgd", "optimizer.lr=1e-3", "wrapper=sam")
    assert (plain.name, sam.name) == ("sgd", "sgd sam")
    assert sam.evaluations == 2 * plain.evaluations


def test_best_lr_is_kept_where_none_is_typed():
    path = path_of("optimizer=sgd", landscape=LANDSCAPES["quadratic"], steps=50)
    assert (path.lr in LRS, path.tried) == (True, len(LRS))
    [entrant] = find_entrants(["optimizer=sgd"], 50)
    for lr in LRS:
        quadratic = LANDSCAPES["quadratic"]
        other = Path("", quadratic, lr, 1, *trace(entrant, lr, quadratic, quadratic.start, 50))
        assert other.leaves_window or path.rank <= other.rank
    assert not path.leaves_window


def test_a_path_that_leaves_the_window_is_taken_only_if_all_do():
    inside = path_of("optimizer=adagrad", steps=50)
    assert not inside.leaves_window
    [entrant] = find_entrants(["optimizer=adagrad"], 50)
    jump = Path("", ROSENBROCK, 3.0, 1, *trace(entrant, 3.0, ROSENBROCK, ROSENBROCK.start, 50))
    assert jump.leaves_window
    assert jump.rank < inside.rank
    assert path_of("optimizer=adagrad", start=(9.0, 9.0), steps=5).leaves_window


@pytest.mark.parametrize("name", ["lbfgs", "prodigy", "adafactor_hf"])
def test_one_that_finds_its_step_size_keeps_its_own_lr(name):
    [entrant] = find_entrants([f"optimizer={name}"], 10)
    assert len(entrant.lrs) == 1


def test_a_path_for_each_combination():
    lines = ["optimizer=sgd,adam", "optimizer.lr=0.1,0.01", "optimizer.weight_decay=0,0.5"]
    found = [(one.name, one.lrs) for one in find_entrants([*lines, "scheduler=cosine"], 10)]
    assert found == [
        (f"{name} cosine weight_decay={decay}", (lr,))
        for name in ("sgd", "adam")
        for lr in (0.1, 0.01)
        for decay in ("0", "0.5")
    ]


def test_divergence_ends_a_path():
    path = path_of("optimizer=sgd", "optimizer.lr=1", steps=300)
    assert path.has_diverged
    assert path.arrival is None
    assert path.rank == (math.inf, math.inf)
    assert len(path.points) < 20


def test_arrival_is_when_the_loss_stays_low():
    def arrival(*losses):
        return Path("", ROSENBROCK, 1.0, 1, [(0.0, 0.0)] * len(losses), list(losses), 0).arrival

    assert arrival(1.0, 1e-4, 0.5, 1e-4, 1e-5) == 3
    assert arrival(1.0, 1e-4, 0.5) is None
    assert arrival(1.0, 0.9, math.nan) is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["optimizer=sgd", "model=gru"], "model=gru has no effect on a race"),
        (["trainer.max_steps=10"], "has no effect on a race.*; --steps=N"),
        (["optimizer=sdg"], "sgd"),
        (["optimizer=sgd", "optimizer.lr=-1"], "optimizer.lr must be"),
        (["optimizer=sgd", "scheduler=cosine_warmup", "scheduler.warmup=2 epochs"], "epoch"),
        (["scheduler=cosine_min_lr", "scheduler.min_lr=1e9"], "min_lr"),
        (["optimizer=sgd", "schedules={momentum: lr}"], "scheduler"),
    ],
)
def test_mistakes(lines, message):
    with pytest.raises(UsageError, match=message):
        [path_of(*lines, steps=5)]
