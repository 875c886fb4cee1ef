"""Floor 2: what Lightning needs to know: configure_optimizers, callbacks, checkpoints."""
