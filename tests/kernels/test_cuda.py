"""Triton kernels: their text, compilation, results and unsupported tensors.

Their results are tested by `triton_parity` and `triton_storage`, which run here in a process of
their own.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lit_optim.kernels import compiler, cuda, symmetric_cuda
from lit_optim.kernels.arithmetic import where
from lit_optim.kernels.codegen.triton import generate_triton
from lit_optim.kernels.codegen.triton_prelude import PRELUDE
from lit_optim.kernels.ir import trace_rule
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.base.elementwise import Elementwise
from tests.kernels.traces import traced
from tests.optimizers.running import NAMES, class_of
from tests.sampling import sample

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
RULES = [name for name in NAMES if issubclass(class_of(name), Elementwise)]

with_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed (pip install lit-optim[triton])"
)
not_interpreted = pytest.mark.skipif(
    cuda._is_interpreted(), reason="TRITON_INTERPRET is set: nothing is compiled"
)


#: Nor is a GPU to be seen, which Triton would ask.
INTERPRETED = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}


def parity(*arguments, **env):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments,
         "tests/kernels/triton_parity.py", "tests/kernels/triton_storage.py"],
        cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    [passed] = re.findall(r"(\d+) passed", done.stdout)
    return int(passed)


@with_triton
def test_kernels_in_the_interpreter():
    assert parity("-m", "not slow", **INTERPRETED) > 100


@with_triton
@pytest.mark.slow
def test_kernels_in_the_interpreter_in_all_precisions():
    assert parity("-m", "slow", **INTERPRETED) > 100


@with_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_kernels_on_a_gpu():
    assert parity("-m", "slow or not slow", TRITON_INTERPRET="0") > 200


@pytest.mark.parametrize(
    ("file", "name", "settings"),
    [
        ("adamw.txt", "adamw", {}),
        ("lion.txt", "lion", {}),
        ("adamw_cautious.txt", "adamw", {"cautious": True, "clip_update": 1.0}),
        ("adamw_int8.txt", "adamw", {"state_dtype": "int8"}),
    ],
)
def test_the_text_equals_the_reviewed_text(file, name, settings):
    """Changes of the text have to be reviewed. To accept a new text after reading the diff:

    LIT_OPTIM_GOLDEN=write python -m pytest tests/kernels/test_cuda.py -k text
    """
    text = generate_triton(*traced(name, **settings))
    assert text.startswith(PRELUDE)
    text = text.removeprefix(PRELUDE).lstrip()
    if os.environ.get("LIT_OPTIM_GOLDEN") == "write":
        (GOLDEN / file).write_text(text, "utf-8")
    assert text == (GOLDEN / file).read_text("utf-8")


def kernels_of(program, formats):
    """Return the kernels of a rule by name, not compiled, and the number of their warps."""
    module = cuda.load_module(generate_triton(program, formats))
    sums = [f"sums{k}" for k in range(len(program.sums_by_pass))]
    names = [*sums, *["combine"] * bool(sums), "update"]
    return {name: getattr(module, name) for name in names}, module.WARPS


def built(name, dtype, capability, settings):
    """Compile each kernel of a rule for a GPU, which need not exist."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers, kernels = {"table": "*i64", "owners": "*i32", "scratch": "*fp64"}, {}
    functions, warps = kernels_of(*traced(name, dtype, **settings))
    for kernel, function in functions.items():
        signature = {n: pointers.get(n, "i64") for n in function.arg_names}
        made = ASTSource(fn=function, signature=signature, constexprs={})
        kernels[kernel] = triton.compile(
            made, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps}
        ).asm
    return kernels


EVERYTHING = {"cautious": True, "clip_update": 1.0, "trust_ratio": True, "maximize": True}


@with_triton
@not_interpreted
@pytest.mark.parametrize(
    ("name", "dtype", "capability", "settings"),
    [
        *sample([(name, torch.float32, 80, {}) for name in RULES], 8),
        ("adamw", torch.float64, 80, {}),
        ("adamw", torch.float64, 80, {"state_dtype": "int8", **EVERYTHING}),
        ("adamw", torch.float16, 80, {}),
        ("adamw", torch.bfloat16, 80, {}),
        ("adamw", torch.bfloat16, 75, {"state_dtype": "bfloat16", "master": "split"}),
        ("adamw", torch.bfloat16, 90, {"state_dtype": "int8", "master": "split", **EVERYTHING}),
        ("adamw", torch.float32, 90, {"amsgrad": True, **EVERYTHING}),
        ("lion", torch.float32, 90, {"hyperball": True, "weight_decay": 0.0}),
        ("lion", torch.float32, 90, {"cautious_weight_decay": True}),
    ],
    ids=str,
)
def test_a_real_compiler_accepts_the_kernels(
    name, dtype, capability, settings, tmp_path, monkeypatch
):
    """The compiler checks types, which the interpreter does not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    for kernel, asm in built(name, dtype, capability, settings).items():
        assert asm["cubin"]
        # a chunk is read in steps of 16 bytes a thread, and nothing small is taken for 0
        assert kernel == "combine" or re.search(r"ld\.global\.(v4\.b32|v2\.b64)", asm["ptx"])
        assert not re.search(r"\.ftz", asm["ptx"])


@with_triton
@not_interpreted
@pytest.mark.parametrize("is_even", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_a_real_compiler_accepts_the_symmetric_product(capability, is_even, tmp_path, monkeypatch):
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    kernel = symmetric_cuda.load_kernel.__wrapped__()
    known = {"HAS_ADDEND": True, "IS_EVEN": is_even}
    known |= {"TILE": symmetric_cuda.TILE, "DEPTH": symmetric_cuda.DEPTH}
    kinds = dict.fromkeys(("a", "b", "add", "out"), "*bf16") | dict.fromkeys(
        ("alpha", "beta"), "fp32"
    )
    kinds |= dict.fromkeys(known, "constexpr")
    signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
    made = compile(
        ASTSource(fn=kernel, signature=signature, constexprs=known),
        target=GPUTarget("cuda", capability, 32),
        options=symmetric_cuda.LAUNCH,
    )
    assert made.asm["cubin"]
    assert re.search(r"w?g?mma\S*\.f32\.bf16\.bf16", made.asm["ptx"])  # by the units of bfloat16
    assert made.metadata.shared <= 100 << 10


@with_triton
@not_interpreted
def test_no_argument_value_specializes_a_kernel(tmp_path, monkeypatch):
    """Triton specializes kernels for numbers: 1, multiples of 16, small and large ones."""
    import inspect

    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend = make_backend(GPUTarget("cuda", 80, 32))
    functions, _ = kernels_of(*traced("adamw", **EVERYTHING))
    for function in functions.values():
        bind = create_function_from_signature(
            inspect.signature(function.fn), function.params, backend
        )
        pointers = [p.name for p in function.params if not p.annotation_type]
        numbers = [p.name for p in function.params if p.annotation_type]
        assert set(pointers) <= {"table", "owners", "scratch"}
        assert len(numbers) >= 4
        tensors = {name: torch.zeros(8) for name in pointers}
        asked = [
            bind(**tensors, **dict.fromkeys(numbers, value))[1]
            for value in (0, 1, 16, 17, -1, 2**31, 2**40, 2**63 - 1, -(2**63))
        ]
        assert all(one == asked[0] for one in asked)


def test_unsupported_tensors_have_a_reason(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    p = torch.nn.Parameter(torch.ones(3))
    assert cuda.unsupported_reason([p, p.detach()]) == "a tensor is on cpu"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(cuda, "_has_triton", lambda: False)
    assert cuda.unsupported_reason([p, p.detach()]) == "triton is not installed"
    monkeypatch.setattr(cuda, "_has_triton", lambda: True)
    assert cuda.unsupported_reason([p, p.detach()]) is None

    class Elsewhere(torch.Tensor):
        pass

    for other, why in [
        (torch.ones(3).as_subclass(Elsewhere), "a tensor is a Elsewhere"),
        (torch.ones(3, device="meta"), "a tensor is on meta, its parameter on cpu"),
        (torch.ones(3, dtype=torch.complex64), "torch.complex64 has no native kernel"),
        (torch.ones(3, dtype=torch.int8), "torch.float32 has no native kernel"),
        (torch.ones(6)[::2], "a gradient or state has another memory layout than its parameter"),
    ]:
        assert cuda.unsupported_reason([p, other]) == why
    gaps = torch.ones(6)[::2]
    assert cuda.unsupported_reason([gaps, gaps]) == "a parameter has gaps in memory"


WITHOUT = """
import sys, torch
class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
from lit_optim.kernels import cuda
from lit_optim.optimizers.adamw import AdamW
p = torch.nn.Parameter(torch.ones(3))
p.grad = torch.ones(3)
AdamW([p]).step()
print(cuda.unsupported_reason([p, p.grad]))
"""


def test_without_triton():
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=env, capture_output=True, text=True)
    assert done.stdout == "a tensor is on cpu\n", done.stderr


def adamw_step(step=cuda.step):
    """Return the result of AdamW's first step in a new table, and the parameter."""
    p, results = torch.nn.Parameter(torch.ones(3)), []

    class Stepped(AdamW):
        def update(self, group, batch, h, t):
            [state], names = batch.states, tuple(self.states_for(group))
            row = [p, p.grad, *(state[n] for n in names)]
            results.append(
                step(
                    (Stepped, names),
                    self._traced_update,
                    cuda.PointerTable([row], [0]),
                    names,
                    h,
                    t,
                )
            )

    p.grad = torch.ones(3)
    Stepped([p]).step()
    return results[0], p


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("no C compiler\nand more"), "RuntimeError: no C compiler"),
        (
            ValueError("at 12:4:\n    x = y\n        ^\ncannot do that"),
            "ValueError: cannot do that",
        ),
        (AssertionError(), "AssertionError: "),
        (ValueError("x" * 999), "ValueError: " + "x" * 200),
    ],
    ids=["first", "last", "none", "long"],
)
def test_a_failed_build_is_reported_in_one_line_and_not_repeated(error, line, monkeypatch):
    asked = []

    def broken(text):
        asked.append(text)
        raise error

    monkeypatch.setattr(cuda, "_kernels", {})
    monkeypatch.setattr(cuda, "load_module", broken)
    told, p = adamw_step()
    assert told == f"triton fails: {line}"
    assert torch.equal(p, torch.ones(3))  # for the next executor
    assert len(cuda._kernels) == len(asked) == 1


def test_the_text_is_stored_atomically_and_a_damaged_file_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = "seen = __file__\n"
    path = Path(cuda.load_module(text).seen)
    assert path.parent == compiler.cache_dir()
    assert path.read_text("utf-8") == text
    path.write_text("seen = 'another'\n", "utf-8")
    assert cuda.load_module(text).seen == str(path)
    assert path.read_text("utf-8") == text
    assert [*path.parent.iterdir()] == [path]  # nothing left over
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))  # cannot be a folder
    assert Path(cuda.load_module(text).seen).read_text("utf-8") == text


def test_call_values_equal_torch_scalars():
    """Compared with torch's float64 scalars, including division by zero."""

    def rule(g, p, s, h):
        x, y, z = h.x, h.y, h.z
        results = [
            x + y, x - y, x * y, x / y, y / x, -x, x.sqrt(), x.abs(), x.sign(), x.maximum(y),
            x.clamp(-0.5, 0.5), where(x < y, x, z), where(x <= y, x, z), where(x > y, x, z),
            where(x >= y, x, z), where(x == y, x, z), where(x != y, x, z),
        ]  # fmt: skip
        return 1.0, 1.0, g, {f"r{k}": result for k, result in enumerate(results)}

    numbers = [0.0, -0.0, 1.5, -2.0, 0.3, math.inf, -math.inf, math.nan, 5e-324, 1e308]
    for x in numbers:
        for y in numbers:
            h = {"x": x, "y": y, "z": 7.0}
            program = trace_rule(rule, [f"r{k}" for k in range(17)], h)
            known = cuda.call_values(program, h)
            tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in h.items()}
            *_, expected = rule(0.0, 0.0, None, SimpleNamespace(**tensors))
            for name, place in program.outputs:
                ours = torch.tensor(float(known[place]), dtype=torch.float64)
                assert torch.equal(ours.isnan(), expected[name].isnan()), (name, h)
                torch.testing.assert_close(
                    ours, expected[name], rtol=1e-15, atol=0, equal_nan=True, msg=f"{name} {h}"
                )
                assert ours == 0 or ours.isnan() or ours.signbit() == expected[name].signbit()
