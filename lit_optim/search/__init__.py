"""Searches for hyperparameters: spaces, studies, samplers, storages, and the workers of a search.

Optuna proposes and remembers; it is imported late, and never by the runs themselves.
"""
