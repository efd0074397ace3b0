"""How a pruner gets to know what the samples of a batch cost: one small protocol, and the two ways of a module."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, cast

from torch import Tensor, nn

from decathlon.errors import ConfigError
from decathlon.pruning.base import Pruner
from decathlon.pruning.shadow import Shadow
from decathlon.pruning.untouched import untouched


class SampleLosses(NamedTuple):
    """Losses (B,) of a batch under the online model and, where the method wants it, under the reference."""

    online: Tensor
    reference: Tensor | None = None


class LossAdapter(Protocol):
    """Where the losses come from. Losses are those before the optimiser's step."""

    def before_step(self, batch: Any, key: tuple[object, ...]) -> None:
        """A batch is about to be trained on; ``key`` names the stream of random numbers to score it with."""

    def after_step(self, outputs: Mapping[str, Any]) -> SampleLosses:
        """The losses of that batch; ``outputs`` is what ``training_step`` returned."""

    def score(self, batch: Any, key: tuple[object, ...]) -> SampleLosses:
        """The losses of a batch that is not trained on."""

    def follow(self) -> None:
        """The optimiser has made a step: let a reference that is kept here follow."""

    def state_dict(self) -> dict[str, Tensor]:
        """What is kept here between steps."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from ``state_dict()``."""


class Brought:
    """A module with ``brings_losses``: ``training_step`` returns ``losses`` and, if wanted, ``reference_losses``.

    Outside of training ``score_losses(batch)`` returns both.
    """

    def __init__(self, module: nn.Module, pruner: Pruner, precision: Callable[[], AbstractContextManager]) -> None:
        self.module, self.precision = module, precision
        if pruner.wants_rescoring and not callable(getattr(module, "score_losses", None)):
            raise ConfigError(f"{type(pruner).__name__} with rescore=epoch needs a module with `score_losses(batch)`")

    def before_step(self, batch: Any, key: tuple[object, ...]) -> None:
        """Nothing: the module takes the losses itself."""

    def after_step(self, outputs: Mapping[str, Any]) -> SampleLosses:
        """What the module returned."""
        if "losses" not in outputs:
            raise ConfigError("a module with `brings_losses` returns `losses` (B,) from training_step beside `loss`")
        return SampleLosses(outputs["losses"], outputs.get("reference_losses"))

    def score(self, batch: Any, key: tuple[object, ...]) -> SampleLosses:
        """What the module's ``score_losses`` says."""
        with untouched(self.module, *key), self.precision():
            return SampleLosses(*cast(Any, self.module).score_losses(batch))

    def follow(self) -> None:
        """Nothing: the module keeps its reference."""

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing."""


class Taken:
    """A module that knows nothing of pruning: its ``sample_losses(batch) -> (B,)`` is called before each step.

    The extra pass leaves no trace (``untouched``) and runs in the trainer's precision. Where ``training_step`` returns
    ``losses``, these are used, and after the first batch the pass is left out. A method that wants a reference gets a
    ``Shadow`` of the module.

    Args:
        module: has ``sample_losses``, or returns ``losses`` from ``training_step``.
        precision: makes the context that a training step runs in.
    """

    def __init__(self, module: nn.Module, pruner: Pruner, precision: Callable[[], AbstractContextManager]) -> None:
        self.module, self.precision = module, precision
        self.evaluating = pruner.score_mode == "eval"
        self.offers = callable(getattr(module, "sample_losses", None))
        self.shadow: Shadow | None = None
        if pruner.wants_reference or pruner.wants_rescoring:
            if not self.offers:
                raise ConfigError(
                    f"{type(pruner).__name__} needs losses of other weights or samples than the batch's: "
                    "offer `sample_losses(batch) -> (B,)`"
                )
            if pruner.wants_reference:
                self.shadow = Shadow(module, pruner.beta, buffers=self.evaluating)
        self._returned = False  # whether training_step returns losses
        self._online: Tensor | None = None
        self._reference: Tensor | None = None

    def before_step(self, batch: Any, key: tuple[object, ...]) -> None:
        """Take the losses that the module does not return."""
        self._online = self._reference = None
        if self.offers and not self._returned:
            self._online = self._online_losses(batch, key)
        if self.shadow is not None:
            self._reference = self._reference_losses(batch, key, moving=True)

    def after_step(self, outputs: Mapping[str, Any]) -> SampleLosses:
        """What the module returned, else what was taken before the step."""
        self._returned = "losses" in outputs
        online = outputs.get("losses", self._online)
        if online is None:
            raise ConfigError("pruning needs per-sample losses: return `losses` or offer `sample_losses(batch)`")
        return SampleLosses(online, outputs.get("reference_losses", self._reference))

    def score(self, batch: Any, key: tuple[object, ...]) -> SampleLosses:
        """The losses as they are now."""
        reference = None if self.shadow is None else self._reference_losses(batch, key, moving=False)
        return SampleLosses(self._online_losses(batch, key), reference)

    def _online_losses(self, batch: Any, key: tuple[object, ...]) -> Tensor:
        with untouched(self.module, "online", *key, evaluating=self.evaluating), self.precision():
            return cast(Any, self.module).sample_losses(batch)

    def _reference_losses(self, batch: Any, key: tuple[object, ...], moving: bool) -> Tensor:
        assert self.shadow is not None
        with untouched(self.module, "reference", *key, evaluating=self.evaluating), self.precision():
            return self.shadow.losses(batch, moving)

    def follow(self) -> None:
        """The reference follows."""
        if self.shadow is not None:
            self.shadow.update()

    def state_dict(self) -> dict[str, Tensor]:
        """The reference."""
        return {} if self.shadow is None else self.shadow.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from ``state_dict()``."""
        if self.shadow is not None:
            self.shadow.load_state_dict(state)


def loss_adapter(module: nn.Module, pruner: Pruner, precision: Callable[[], AbstractContextManager]) -> LossAdapter:
    """The adapter of a module: ``Brought`` where it says ``brings_losses``, else ``Taken``."""
    kind = Brought if getattr(module, "brings_losses", False) else Taken
    return kind(module, pruner, precision)
