"""Schedules of the lr and of other hyperparameters. Only `adapter` imports torch."""
