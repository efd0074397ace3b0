"""CoRA: collaborative signals as generated low-rank weights of a frozen language model (arXiv 2408.10645).

    from decathlon.tasks.cora import CoRA

The paper's method needs torch and transformers only.
"""

from decathlon.tasks.cora.cora import CoRA
from decathlon.tasks.cora.generators import GENERATORS, make_generator

__all__ = ["GENERATORS", "CoRA", "make_generator"]
