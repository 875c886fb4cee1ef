"""Cases of the optimizers that came after torch's, coordinate by coordinate; see `cases`."""

from __future__ import annotations

ADAPTIVE = {}
