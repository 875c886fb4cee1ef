"""The integration with Lightning: configure_optimizers, OptimizerMixin and what they need."""
