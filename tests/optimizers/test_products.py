"""In what matrices are multiplied: measured once per machine, kept, and the same in any process."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
import time

import pytest
import torch

from lit_optim import Muon
from lit_optim.errors import UsageError
from lit_optim.kernels import compiler, symmetric_cuda
from lit_optim.optimizers.base import linalg, products
from lit_optim.optimizers.base.products import OVERRIDE, Seconds, known_seconds, prefers_bfloat16


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(OVERRIDE, raising=False)
    prefers_bfloat16.cache_clear()
    yield tmp_path / "lit_optim" / "kernels"
    prefers_bfloat16.cache_clear()


@pytest.fixture
def measured(monkeypatch):
    """What measurements will find, one after the other; how many were made."""
    results, made = [], []

    def measure(device):
        made.append(device)
        return results[min(len(made), len(results)) - 1]

    monkeypatch.setattr(products, "measure", measure)
    return results, made


@pytest.mark.parametrize(
    ("float32", "bfloat16", "expected"),
    [(2.0, 1.0, True), (1.0, 2.0, False), (1.0, 0.95, False), (1.0, 0.85, True), (1.0, 1.0, False)],
)
def test_it_is_bfloat16_where_that_is_clearly_faster(float32, bfloat16, expected, measured):
    measured[0].append(Seconds(float32, bfloat16))
    assert prefers_bfloat16("cpu") is expected


def test_what_other_work_takes_is_not_measured():
    waiting = products._seconds(lambda: time.sleep(0.5), torch.ones(1))
    assert waiting < 0.25, "while it waits, as behind other processes, it multiplies nothing"


def test_it_is_measured_once_and_then_read(cache, measured):
    results, made = measured
    results += [Seconds(2.0, 1.0), Seconds(1.0, 2.0)]
    for _ in range(3):
        assert prefers_bfloat16("cpu")
        prefers_bfloat16.cache_clear()  # as another process would ask
    assert made == ["cpu"]
    [path] = cache.iterdir()  # nothing left over
    assert json.loads(path.read_text()) == {"float32": 2.0, "bfloat16": 1.0}


def test_the_first_of_two_processes_counts(cache, measured, monkeypatch):
    """Ranks of a run that decided otherwise would drift apart."""
    keep, first = products._keep, Seconds(1.0, 2.0)

    def late(path, seconds):
        keep(path, first)
        return keep(path, seconds)

    measured[0].append(Seconds(2.0, 1.0))
    monkeypatch.setattr(products, "_keep", late)
    assert known_seconds("cpu") == first


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"float32": 1.0}', '{"float32": "1", "bfloat16": 2}', "\0" * 99,
             '{"float32": 0, "bfloat16": 1}', '{"float32": NaN, "bfloat16": 1}'],
)  # fmt: skip
def test_a_broken_file_is_made_anew(text, cache, measured):
    results, made = measured
    results += [Seconds(2.0, 1.0)]
    known_seconds("cpu")
    [path] = cache.iterdir()
    path.write_text(text)
    assert known_seconds("cpu") == Seconds(2.0, 1.0)
    assert made == ["cpu"] * 2
    assert known_seconds("cpu") == Seconds(2.0, 1.0)
    assert made == ["cpu"] * 2


def test_each_number_of_threads_has_a_measurement_of_its_own(cache, measured, monkeypatch):
    measured[0].append(Seconds(2.0, 1.0))
    for threads in (1, 2, 1):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        known_seconds("cpu")
    assert len([*cache.iterdir()]) == len(measured[1]) == 2


def test_where_nothing_can_be_kept_the_flag_of_the_cpu_decides(tmp_path, measured, monkeypatch):
    """Else every process would measure, and decide, for itself."""
    measured[0].append(Seconds(1.0, 2.0))
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    for has in (True, False):
        monkeypatch.setattr(products, "has_tiles", lambda has=has: has)
        prefers_bfloat16.cache_clear()
        assert known_seconds("cpu") is None
        assert prefers_bfloat16("cpu") is has


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_the_environment_decides(kind, cache, measured, monkeypatch):
    monkeypatch.setenv(OVERRIDE, kind)
    assert prefers_bfloat16("cpu") is (kind == "bfloat16")
    assert not measured[1]
    seen = []
    monkeypatch.setattr(torch, "addmm", lambda a, *_, **__: seen.append(a.dtype) or a)
    step(make())
    assert {str(dtype).removeprefix("torch.") for dtype in seen} == {kind}


def make(**settings):
    p = torch.nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    return Muon([{"params": [p], "role": "hidden"}], **settings)


def step(optimizer):
    [p] = optimizer.param_groups[0]["params"]
    p.grad = p.detach().clone()
    optimizer.step()
    return p.detach().clone()


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_a_run_goes_on_in_the_dtype_that_it_began_with(kind, monkeypatch):
    """Also on a machine, or by a variable, that chooses the other one."""
    monkeypatch.setenv(OVERRIDE, kind)
    first, other = make(), {"float32": "bfloat16", "bfloat16": "float32"}[kind]
    assert first.param_groups[0]["ns_dtype"] == "auto"
    step(first)
    saved = copy.deepcopy(first.state_dict())
    assert saved["param_groups"][0]["ns_dtype"] == kind
    monkeypatch.setenv(OVERRIDE, other)
    prefers_bfloat16.cache_clear()
    resumed, fresh = make(), make()
    with torch.no_grad():
        for optimizer in (resumed, fresh):
            optimizer.param_groups[0]["params"][0].copy_(first.param_groups[0]["params"][0])
    resumed.load_state_dict(saved)
    expected = step(first)
    assert torch.equal(step(resumed), expected)
    del saved["param_groups"][0]["ns_dtype"]  # as before there was a choice: that of the machine
    fresh.load_state_dict(saved)
    assert not torch.equal(step(fresh), expected)
    assert fresh.param_groups[0]["ns_dtype"] == other


def test_a_step_of_some_parameters_settles_the_dtype_of_all(monkeypatch):
    monkeypatch.setenv(OVERRIDE, "bfloat16")
    optimizer = make()
    [group] = optimizer.param_groups
    group["params"][0].grad = torch.ones(6, 4)
    optimizer.step_parameters(group, group["params"])
    assert group["ns_dtype"] == "bfloat16"


def test_what_is_chosen_is_not_measured(measured):
    measured[0].append(Seconds(2.0, 1.0))
    step(make(ns_dtype="float32"))
    assert not measured[1]
    step(make())
    assert measured[1] == ["cpu"]


def test_another_word_is_refused(monkeypatch):
    monkeypatch.setenv(OVERRIDE, "fp8")
    with pytest.raises(UsageError, match=f"{OVERRIDE} must be float32 or bfloat16, got 'fp8'"):
        prefers_bfloat16("cpu")


def test_a_measurement_ends_and_leaves_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    found = products.measure("cpu")
    assert torch.equal(torch.randn(3), expected)
    assert 0 < found.float32 < 10
    assert 0 < found.bfloat16 < 10


def test_noise_is_waited_out(monkeypatch):
    """Something else runs in the first rounds, while bfloat16 is measured: it is faster."""
    seconds = iter([1.0, 1.1, 1.0, 1.05, 1.0, 0.95, *[1.0, 0.5] * 20])
    monkeypatch.setattr(products, "_seconds_of_product", lambda x: next(seconds))
    assert products.measure("cpu").speedup == 2.0


@pytest.mark.parametrize(("symmetric", "expected"), [(0.5, True), (0.95, False), (math.inf, False)])
def test_half_a_product_is_computed_where_that_is_faster(
    symmetric, expected, cache, measured, monkeypatch
):
    measured[0].append(Seconds(2.0, 1.0, symmetric))
    monkeypatch.setattr(products, "_machine", str)  # there is no card to ask for its name
    for _ in range(2):  # measured, and read
        assert products.prefers_symmetric_kernel.__wrapped__("cuda") is expected
    assert measured[1] == ["cuda"]
    assert not products.prefers_symmetric_kernel("cpu")


@pytest.mark.parametrize("found", [lambda x: x @ x.mT, lambda x: 2 * (x @ x.mT), None])
def test_a_kernel_that_computes_something_else_is_not_used(found, monkeypatch):
    def multiply(a, b, *_):
        assert found is not None, "cannot compile"
        return found(a)

    monkeypatch.setattr(symmetric_cuda, "multiply_symmetric", multiply)
    x = torch.linspace(-1, 1, 64 * 64).reshape(64, 64).bfloat16()
    seconds = products._time_symmetric(x)
    is_right = found is not None and torch.equal(found(x), x @ x.mT)
    assert (seconds < math.inf) is is_right


@pytest.mark.parametrize(("onednn", "expected"), [(1.0, True), (1.9, False), (math.inf, False)])
def test_float32_is_multiplied_by_onednn_where_that_is_faster(onednn, expected, cache, measured):
    measured[0].append(Seconds(2.0, 1.0, onednn=onednn))
    for _ in range(2):  # measured, and read
        assert products.prefers_onednn.__wrapped__() is expected
    assert measured[1] == ["cpu"]


@pytest.mark.parametrize("found", [torch.matmul, lambda a, b: a @ b + 1, lambda a, b: a[:1], None])
def test_onednn_is_not_called_where_it_fails(found, monkeypatch):
    def multiply(a, b):
        assert found is not None, "other arguments"
        return found(a, b)

    monkeypatch.setattr(products, "multiply_by_onednn", multiply)
    seconds = products._time_onednn(torch.linspace(-1, 1, 64 * 64).reshape(64, 64))
    assert (seconds < math.inf) is (found is torch.matmul)


@pytest.mark.parametrize("count", [1, 3])
def test_products_by_onednn_are_those_of_torch(count, monkeypatch):
    """Of what is stored by rows, by columns, and of slices of either."""
    monkeypatch.setattr(linalg, "LEAST", 2)
    monkeypatch.setattr(linalg, "prefers_onednn", lambda: True)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 12, 30, generator=generator)
    y = torch.randn(count, 30, 12, generator=generator)
    for a in (x, y.mT, x[:, 2:9], y.mT[:, 2:9], x.transpose(0, 1).contiguous().transpose(0, 1)):
        for b in (y, x.mT, y[:, :, 3:7], x.mT[:, :, 3:7]):
            found = linalg.multiply(a, b)
            torch.testing.assert_close(found, a @ b, rtol=1e-5, atol=1e-5)
            assert torch.equal(linalg.multiply(a.double(), b.double()), a.double() @ b.double())
    factor, expected = torch.ones(count, 12, 12), torch.ones(count, 12, 12)
    linalg.update_factor_(factor, x, 0.25)
    expected = 0.75 * expected + 0.25 * x @ x.mT
    torch.testing.assert_close(factor.tril(), expected.tril(), rtol=1e-5, atol=1e-5)


def test_other_devices_have_none():
    assert not prefers_bfloat16("mps")


def test_processes_of_a_machine_agree(cache):
    code = "from lit_optim.optimizers.base.products import *; print(prefers_bfloat16('cpu'))"
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = {run.communicate()[0] for run in runs}
    assert len(answers) == 1
    assert answers <= {"True\n", "False\n"}
    assert compiler.cache_dir() == cache


def test_a_group_that_is_empty_in_a_process_has_its_dtype_too(monkeypatch):
    monkeypatch.setenv(OVERRIDE, "bfloat16")  # as under ZeRO, which gives each process some
    optimizer = Muon([{"params": [torch.nn.Parameter(torch.eye(3))]} for _ in range(2)])
    own = optimizer.param_groups[1]["params"][0]
    optimizer.param_groups[0]["params"] = []
    own.grad = torch.ones(3, 3)
    optimizer.step()
    assert [group["ns_dtype"] for group in optimizer.param_groups] == ["bfloat16"] * 2
