"""The integration with Lightning: configure_optimizers, OptimizerMixin and what they need."""

from lit_optim.missing import require

require("lightning", "pytorch_lightning", user="configure_optimizers")
