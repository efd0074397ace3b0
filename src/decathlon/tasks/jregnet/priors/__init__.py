"""Value distributions, one per bidder: sampling, ironed virtual values, and their inverses."""

from decathlon.tasks.jregnet.priors.base import Copula, Prior, Product
from decathlon.tasks.jregnet.priors.discrete import Discrete
from decathlon.tasks.jregnet.priors.empirical import Empirical
from decathlon.tasks.jregnet.priors.parametric import Exponential, TruncatedExponential, Uniform
from decathlon.tasks.jregnet.priors.tables import LogNormal, Normal, Table, TwoPeaks

__all__ = [
    "Copula",
    "Discrete",
    "Empirical",
    "Exponential",
    "LogNormal",
    "Normal",
    "Prior",
    "Product",
    "Table",
    "TruncatedExponential",
    "TwoPeaks",
    "Uniform",
]
