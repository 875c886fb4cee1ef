"""The groups of conf/ that other Hydra apps take, by `hydra.searchpath: [pkg://lit_optim.hydra]`.

`optimizer`, `scheduler`, `param_groups` and `wrapper` are links to the folders in conf/, and copies
of them in an installed wheel.
"""
