"""`lit-optim race`: the paths of optimizers on functions of two coordinates."""
