"""The methods of the task: options that are checked at once, and the adapters that they make of a language model."""

from decathlon.tasks.cora.methods.alone import BiasMethod, CollaborativeMethod, LogisticMethod
from decathlon.tasks.cora.methods.base import Adapter, Batch, Method, Sizes, Stage
from decathlon.tasks.cora.methods.soft import CoLLMMethod, PersonPromptMethod, Prompt4NRMethod
from decathlon.tasks.cora.methods.weights import BinLLMMethod, CoRAMethod, FrozenMethod, TALLRecMethod

__all__ = [
    "Adapter",
    "Batch",
    "BiasMethod",
    "BinLLMMethod",
    "CoLLMMethod",
    "CoRAMethod",
    "CollaborativeMethod",
    "FrozenMethod",
    "LogisticMethod",
    "Method",
    "PersonPromptMethod",
    "Prompt4NRMethod",
    "Sizes",
    "Stage",
    "TALLRecMethod",
]
