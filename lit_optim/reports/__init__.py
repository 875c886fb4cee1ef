"""What the commands other than train show: plots, tables, checks; no run is changed."""
