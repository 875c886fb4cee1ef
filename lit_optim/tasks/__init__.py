"""Small tasks with real data, and models for them."""
