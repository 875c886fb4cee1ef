"""Cases of the optimizers of matrices; see `cases`."""

from __future__ import annotations

MATRIX = {}
