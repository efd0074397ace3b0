"""Solvers of forward and inverse problems, all on the same problem object."""
