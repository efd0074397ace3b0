"""Joint auctions of stores and brands (Zhang et al., KDD 2024): learnt mechanisms, judged against the exact optimum."""

from decathlon.tasks.jregnet.affine import AffineMaximizer
from decathlon.tasks.jregnet.auction import JointAuction, Mechanism, Outcome
from decathlon.tasks.jregnet.audit import Audit, audit
from decathlon.tasks.jregnet.integral import IntegralPayments
from decathlon.tasks.jregnet.learner import LearntMechanism, RegretLearner
from decathlon.tasks.jregnet.loading import Trained, load
from decathlon.tasks.jregnet.mechanisms import best_reserve, gsp, optimal, optimal_revenue, rvcg, vcg
from decathlon.tasks.jregnet.network import JRegNet
from decathlon.tasks.jregnet.priors import (
    Copula,
    Discrete,
    Empirical,
    Exponential,
    LogNormal,
    Normal,
    Prior,
    Product,
    Table,
    TruncatedExponential,
    TwoPeaks,
    Uniform,
)
from decathlon.tasks.jregnet.regret import Regret, exact_regret

__all__ = [
    "AffineMaximizer",
    "Audit",
    "Copula",
    "Discrete",
    "Empirical",
    "Exponential",
    "IntegralPayments",
    "JRegNet",
    "JointAuction",
    "LearntMechanism",
    "LogNormal",
    "Mechanism",
    "Normal",
    "Outcome",
    "Prior",
    "Product",
    "Regret",
    "RegretLearner",
    "Table",
    "Trained",
    "TruncatedExponential",
    "TwoPeaks",
    "Uniform",
    "audit",
    "best_reserve",
    "exact_regret",
    "gsp",
    "load",
    "optimal",
    "optimal_revenue",
    "rvcg",
    "vcg",
]
