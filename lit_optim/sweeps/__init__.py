"""Floor 3: many runs: each a process of its own, and a table at the end."""
