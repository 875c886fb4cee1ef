"""Floor 0: a rule of ordinary arithmetic becomes one step of a tensor."""
