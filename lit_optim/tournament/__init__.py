"""Tournaments of optimizers: equal searches, then fresh seeds at the best of each."""
