"""Wrappers for any optimizer: averaged weights, slow weights, sharpness-aware steps."""

from lit_optim.wrappers.ema import Ema
from lit_optim.wrappers.lookahead import Lookahead
from lit_optim.wrappers.sam import Sam
from lit_optim.wrappers.wrapper import Wrapped, Wrapper, none, unwrap

__all__ = ["Ema", "Lookahead", "Sam", "Wrapped", "Wrapper", "none", "unwrap"]
