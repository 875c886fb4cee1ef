"""Tournaments: a fair search for each optimizer, then fresh seeds at the best, on several tasks."""
