"""Turns a rule of ordinary arithmetic into the update of many tensors on a CPU or a GPU."""
