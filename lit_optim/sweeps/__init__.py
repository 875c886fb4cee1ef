"""Sweeps: each run in its own process, and a table at the end."""
