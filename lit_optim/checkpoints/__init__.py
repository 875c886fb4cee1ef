"""Checkpoint files: written whole, with plain values only, checked before they are loaded."""
