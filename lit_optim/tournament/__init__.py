"""Tournaments of optimizers: equal numbers of trials, then fresh seeds at each best trial."""
