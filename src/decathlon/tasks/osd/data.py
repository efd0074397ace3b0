"""Batches of token sequences as a function of the step, and the sequences to validate and test on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from decathlon.build import build
from decathlon.errors import ConfigError, DataError
from decathlon.language.corpora import Corpus
from decathlon.language.corpus import Documents, TokenFile, Windows
from decathlon.language.tokenised import Tokenised, tokenised
from decathlon.orders import BatchOrder

PACKINGS = ("packed", "documents")
IGNORED = -100  # the label of padding
Batch = dict[str, Tensor]


class TextData(LightningDataModule):
    """A corpus in sequences of ``length`` tokens; the batch of a step is a function of (seed, step).

    Args:
        root: data folder.
        dataset: its config: ``name`` and ``corpus``, the class and options of a ``decathlon.language.corpora.Corpus``.
        tokens, vocabulary: ``byte``, ``bpe`` (of so many tokens) or a tokenizer's name (see ``tokenised``).
        length: of a sequence. batch_size: sequences of a step, of all processes together.
        steps: of the training.
        packing: ``packed``: windows across documents; ``documents``: one document is one sample, cut off or padded, as
            in the paper.
        stream: samples in the order of the corpus, each once, as the paper's stream, of which as many documents are
            fetched as the steps take; otherwise shuffled epochs.
        eval_tokens: how many tokens to validate on, and to test on.
        seed: of the order.

    Raises:
        ConfigError: in one line, for values that cannot be.
    """

    def __init__(
        self, root: str | Path, dataset: Mapping[str, Any], tokens: str = "byte", vocabulary: int = 4096,
        length: int = 256, batch_size: int = 8, steps: int = 200, packing: str = "packed", stream: bool = False,
        eval_tokens: int = 32_768, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if packing not in PACKINGS:
            raise ConfigError(f"packing={packing} is unknown; choose {', '.join(PACKINGS)}")
        if length < 2:
            raise ConfigError(f"length={length} must be at least 2: a token is predicted from those before it")
        for name, value in {"batch_size": batch_size, "steps": steps, "eval_tokens": eval_tokens}.items():
            if value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        self.root, self.called = Path(root), str(dataset.get("name"))
        self.tokens, self.vocabulary, self.packing, self.stream = str(tokens), int(vocabulary), packing, bool(stream)
        self.length, self.batch_size, self.steps = int(length), int(batch_size), int(steps)
        self.eval_tokens, self.seed = int(eval_tokens), int(seed)
        taken = {"documents": self.steps * self.batch_size} if self.stream else {}
        made = build(dict(dataset["corpus"]), called="dataset.corpus", **taken)
        if not isinstance(made, Corpus):
            raise ConfigError(f"{dataset['corpus']['class']} is no decathlon.language.corpora.Corpus")
        self.corpus: Corpus = made
        self._found: Tokenised | None = None

    @property
    def found(self) -> Tokenised:
        """The corpus in tokens."""
        if self._found is None:
            longest = self.length if self.packing == "documents" else None
            self._found = tokenised(self.root, self.called, self.corpus, self.tokens, self.vocabulary, longest)
        return self._found

    def prepare_data(self) -> None:
        assert self.found

    def fetch_data(self) -> None:
        """What ``decathlon data`` does."""
        self.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        self._samples = {name: self._sequences(file) for name, file in self.found.files.items()}
        needed = self.steps * self.batch_size if self.stream else 1
        if len(self._samples["train"]) < needed:
            raise DataError(
                f"the corpus has {len(self._samples['train'])} sequences of {self.length} tokens to train on, and "
                f"{self.steps} steps of {self.batch_size} take {needed}, each once; choose fewer steps"
            )
        self._order = BatchOrder(len(self._samples["train"]), self.batch_size, self.seed)

    def _sequences(self, file: TokenFile) -> Any:
        if self.packing == "documents":
            return Documents(file, self.length, self.found.padding)
        try:
            return Windows(file, self.length)
        except ValueError as error:
            raise DataError(f"the corpus is too short: {error}; choose a smaller length") from error

    def batch(self, step: int) -> Batch:
        """This process's share of a step's batch: ``ids`` and ``labels``, (B, T) int64."""
        if self.stream:
            positions = list(range(step * self.batch_size, (step + 1) * self.batch_size))
        else:
            positions = self._order.batch(step).tolist()
        rank, world = self._place()
        if len(positions) < world:
            raise DataError(f"a batch of {len(positions)} sequences cannot be shared by {world} processes")
        return self._collate("train", positions[rank::world])

    def _collate(self, split: str, positions: list[int]) -> Batch:
        samples = self._samples[split]
        if not positions:
            nothing = torch.zeros(1, self.length, dtype=torch.long)
            return {"ids": nothing, "labels": torch.full_like(nothing, IGNORED)}
        if self.packing == "documents":
            ids, mask = (torch.stack(part) for part in zip(*(samples[index] for index in positions)))
            return {"ids": ids, "labels": ids.masked_fill(mask == 0, IGNORED)}
        ids = torch.stack([samples[index] for index in positions])
        return {"ids": ids, "labels": ids}

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def held_out(self, split: str) -> list[list[int]]:
        """The positions of the sequences of ``val`` or ``test`` in batches, those of this process.

        Every process has as many batches, the last may be empty: where weights are sharded all read together.
        """
        count = max(1, min(len(self._samples[split]), self.eval_tokens // self.length))
        rank, world = self._place()
        mine = list(range(count))[rank::world]
        most = -(-count // world)
        return [mine[first : first + self.batch_size] for first in range(0, most, self.batch_size)]

    def train_dataloader(self) -> DataLoader:
        return _loader(_Steps(self))

    def val_dataloader(self) -> DataLoader:
        return _loader(_HeldOut(self, "val"))

    def test_dataloader(self) -> DataLoader:
        return _loader(_HeldOut(self, "test"))


class _Steps(Dataset[Batch]):
    def __init__(self, data: TextData) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.steps

    def __getitem__(self, step: int) -> Batch:
        return self.data.batch(step)


class _HeldOut(Dataset[Batch]):
    def __init__(self, data: TextData, split: str) -> None:
        self.data, self.split, self.batches = data, split, data.held_out(split)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.data._collate(self.split, self.batches[index])


class _InOrder(DistributedSampler):
    """0, 1, 2, …; a DistributedSampler in name, so that Lightning puts none around it: the items are shares already."""

    def __init__(self, count: int) -> None:
        self.count = count

    def set_epoch(self, epoch: int) -> None:
        """Nothing to do."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


def _loader(dataset: Any) -> DataLoader:
    return DataLoader(dataset, batch_size=None, sampler=_InOrder(len(dataset)))
