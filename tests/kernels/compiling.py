"""A function to compile, and what it answers."""

from __future__ import annotations

import ctypes

from lit_optim.kernels import compiler

SOURCE = """
#include <stdint.h>
void step(double *call, const double *h, int64_t t, int threads) { *call = *h + t + threads; }
"""
ANSWER = "23.5"


def answer(source=SOURCE):
    numbers = (ctypes.c_double * 2)(0, 0.5)
    place = ctypes.addressof(numbers)
    compiler.load_kernel(source)(place, place + 8, 20, 3)
    return str(numbers[0])
