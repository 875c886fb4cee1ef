"""Generators of source text: a traced rule becomes C or Triton."""
