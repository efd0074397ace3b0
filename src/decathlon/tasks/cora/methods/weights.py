"""Methods that change weights: CoRA, static LoRA on the text (TALLRec) or on codes (BinLLM), and none (ICL)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from decathlon.language.decoder import Kind, decoder_of
from decathlon.tasks.cora.cora import MODULES, CoRA, adapted_blocks
from decathlon.tasks.cora.generators import make_generator
from decathlon.tasks.cora.methods.base import Adapter, Batch, Method, Sizes, Stage, StaticLoRA, check_rank


class FrozenMethod(Method):
    """The language model as it is (ICL, without examples).

    Args:
        blocks: those that other methods adapt: what is kept for them serves here too. It changes nothing.
    """

    def __init__(self, blocks: int | Sequence[int] | None = None) -> None:
        self.blocks = blocks

    def adapter(self, llm: Any, sizes: Sizes) -> Adapter:
        frozen = Adapter()
        frozen.first = min(adapted_blocks(decoder_of(llm), self.blocks))
        return frozen


class CoRAAdapter(Adapter):
    """CoRA's increments for the pairs of a batch."""

    def __init__(self, cora: CoRA) -> None:
        super().__init__()
        self.cora, self.first = cora, cora.first_block

    @contextmanager
    def applied(self, batch: Batch) -> Iterator[None]:
        assert batch.vectors is not None
        with self.cora.personalised(*batch.vectors):
            yield


class CoRAMethod(Method):
    """The paper's method; see :class:`~decathlon.tasks.cora.CoRA`.

    Args:
        collaborative: ``mf``, ``lgcn`` or ``sas``, where the vectors come from.
        rank, alpha, blocks, modules, dropout: of the increments.
        generator: its name. options: the options of each generator by its name.
        permuted: each row gets the vectors of the pair of another row: the control that must lose what CoRA gains.
    """

    stages: tuple[Stage, ...] = (Stage("text"),)

    def __init__(
        self, collaborative: str = "mf", rank: int = 16, alpha: float | None = None,
        blocks: int | Sequence[int] | None = None, modules: Sequence[Kind] = MODULES, dropout: float = 0.05,
        generator: str = "qformer", options: Mapping[str, Mapping[str, Any]] | None = None, permuted: bool = False,
    ) -> None:  # fmt: skip
        check_rank(rank, alpha, dropout)
        self.collaborative, self.permuted = collaborative, permuted
        self.generator, self.options = generator, dict((options or {}).get(generator) or {})
        make_generator(generator, 64, 64, **self.options)  # its options are looked at before anything is written
        self.given: dict[str, Any] = {
            "rank": rank, "alpha": alpha, "blocks": blocks, "modules": list(modules), "dropout": dropout,
        }  # fmt: skip

    def adapter(self, llm: Any, sizes: Sizes) -> Adapter:
        cora = CoRA(llm, sizes.user_dim, sizes.item_dim, generator=self.generator, **self.given, **self.options)
        return CoRAAdapter(cora)


class LoRAAdapter(Adapter):
    """Static LoRA, the same for every row."""

    def __init__(self, lora: StaticLoRA) -> None:
        super().__init__()
        self.lora, self.first = lora, min(lora.blocks)

    @contextmanager
    def applied(self, batch: Batch) -> Iterator[None]:
        with self.lora.applied():
            yield

    @contextmanager
    def without_pair(self) -> Iterator[None]:
        with self.lora.applied():
            yield


class TALLRecMethod(Method):
    """Static LoRA on the text prompt (arXiv 2305.00447); CoLLM's first stage."""

    stages: tuple[Stage, ...] = (Stage("text"),)

    def __init__(
        self, rank: int = 8, alpha: float = 16.0, blocks: int | Sequence[int] | None = None,
        modules: Sequence[Kind] = ("q", "v"), dropout: float = 0.05,
    ) -> None:  # fmt: skip
        check_rank(rank, alpha, dropout)
        self.given: dict[str, Any] = {
            "rank": rank, "alpha": alpha, "blocks": blocks, "modules": list(modules), "dropout": dropout,
        }  # fmt: skip

    def adapter(self, llm: Any, sizes: Sizes) -> Adapter:
        return LoRAAdapter(StaticLoRA(llm, **self.given))


class BinLLMMethod(TALLRecMethod):
    """Codes of the collaborative model in the prompt, as text (arXiv 2406.03210); LoRA first without, then with them.

    Args:
        first: share of the steps without the codes. notation: ``bits`` (0110...) or ``dotted`` (decimals of 8 bits).
        lr: factor of the learning rate with the codes.
    """

    collaborative = "binary"

    def __init__(self, first: float = 0.5, notation: str = "bits", lr: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        if notation not in ("bits", "dotted"):
            raise ValueError(f"notation={notation} is unknown; choose bits or dotted")
        if not 0 < first < 1:
            raise ValueError(f"first={first} must be a share of the steps between 0 and 1")
        self.codes = notation
        self.stages = (Stage("text", share=first), Stage("identity", share=1 - first, lr=lr))
