"""The table of primitives: one entry reaches torch, C, Triton and Python numbers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from lit_optim.kernels import cpu, cuda, torch_executor
from lit_optim.kernels.ir import trace_rule
from lit_optim.kernels.pointer_table import PointerTable
from lit_optim.kernels.primitives import PRIMITIVES, define_primitive, double_product
from tests.kernels import requirements

VALUES = [-3.0, -0.5, 0.0, 0.25, 2.0]


@pytest.fixture
def exp():
    """A primitive that the table does not have, in one entry."""
    yield define_primitive(
        "exp", "eˣ", 1, torch=torch.exp, number=math.exp, c="exp{f}({0})", triton="tl.exp({0})"
    )
    del PRIMITIVES["exp"]


def rule_with(exp):
    """It uses the primitive once per element and once per call."""

    def rule(g, p, s, h):
        return 1.0, exp(h.lr), exp(g), {"m": exp(p)}

    return rule


def row(dtype=torch.float32):
    p, g, m = torch.tensor([VALUES, VALUES[::-1], [0.0] * 5], dtype=dtype).unbind()
    return p.clone(), g.clone(), m.clone()


def expected(lr):
    pairs = zip(VALUES, VALUES[::-1], strict=True)
    return [p - math.exp(lr) * math.exp(g) for p, g in pairs], [math.exp(p) for p in VALUES]


def check(p, m, lr, tolerance):
    for tensor, values in zip((p, m), expected(lr), strict=True):
        reference = torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(tensor.double(), reference, rtol=tolerance, atol=tolerance)


DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=["f32", "f64"]
)


@DTYPES
def test_a_new_primitive_runs_in_torch(exp, dtype, tolerance):
    p, g, m = row(dtype)
    h = SimpleNamespace(lr=-1.5)
    torch_executor.step(rule_with(exp), p, g, {"m": m}, ("m",), h, 1)
    check(p, m, -1.5, tolerance)


@DTYPES
@requirements.compiler
def test_a_new_primitive_runs_in_compiled_c(exp, dtype, tolerance):
    p, g, m = row(dtype)
    table = PointerTable([[p, g, m]], [0])
    h = SimpleNamespace(lr=-1.5)
    key = ("a toy", str(dtype))
    assert cpu.step(key, rule_with(exp), table, ("m",), h, 1) is None
    check(p, m, -1.5, tolerance)


INTERPRETED = """
import math, torch
from types import SimpleNamespace
from lit_optim.kernels import cuda
from lit_optim.kernels.primitives import define_primitive
from tests.kernels.test_primitives import check, row, rule_with
exp = define_primitive(
    "exp", "e", 1, torch=torch.exp, number=math.exp, c="exp{f}({0})", triton="tl.exp({0})"
)
p, g, m = row()
table = cuda.PointerTable([[p, g, m]], [0])
assert cuda.step("a toy", rule_with(exp), table, ("m",), SimpleNamespace(lr=-1.5), 1) is None
check(p, m, -1.5, 1e-6)
print("as expected")
"""


@requirements.triton
def test_a_new_primitive_runs_in_triton():
    """In the interpreter, which has to be chosen before triton is imported."""
    env = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "as expected\n", done.stderr


def test_a_new_primitive_is_computed_once_per_call(exp):
    program = trace_rule(rule_with(exp), ("m",), {"lr": 0.5})
    assert cuda.call_values(program, {"lr": 0.5})[program.b] == math.exp(0.5)
    assert exp(0.5) == math.exp(0.5)


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="'sqrt' is already defined"):
        define_primitive("sqrt", "", 1, torch=None, number=None, c="", triton="")


@pytest.mark.parametrize("name", PRIMITIVES)
def test_every_primitive_checks_its_operands(name):
    primitive = PRIMITIVES[name]
    operands = [torch.ones(2)] * (primitive.arity + 1)
    with pytest.raises(TypeError, match=rf"takes {primitive.arity} operands, got {len(operands)}"):
        primitive(*operands)


NUMBERS = [0.0, -0.0, 1.5, -2.0, 0.3, math.inf, -math.inf, math.nan, 5e-324, 1e308]


@pytest.mark.parametrize("name", PRIMITIVES)
def test_numbers_and_tensors_give_the_same(name):
    """In double precision, division by zero and all."""
    primitive = PRIMITIVES[name]
    for x in NUMBERS:
        for y in NUMBERS:
            operands = [x, y, 0.5][: primitive.arity]
            if name == "clamp":
                operands = [x, -0.5, 0.5]
            if name == "where":
                operands = [x < y, x, y]
            on_numbers = primitive.number(*operands)
            tensors = [torch.tensor(operand, dtype=torch.float64) for operand in operands]
            if name == "where":
                tensors[0] = torch.tensor(operands[0])
            if name == "clamp":
                tensors[1:] = operands[1:]
            on_tensors = primitive(*tensors)
            torch.testing.assert_close(
                torch.tensor(on_numbers, dtype=on_tensors.dtype),
                on_tensors,
                rtol=1e-15,
                atol=0,
                equal_nan=True,
                msg=f"{name}{tuple(operands)}",
            )


def test_a_double_product_does_not_overflow():
    x = torch.full((2,), 1e30, dtype=torch.float32)
    assert double_product(x, x).tolist() == pytest.approx([1e60, 1e60])
