"""Other libraries' names and arguments, translated into ours."""
