"""Attacks on what docs/trust.md says."""
