"""Trains the tiny GPT-2 that knows a synthetic world, in well under a minute, and keeps it on disk."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from decathlon.files import cached
from decathlon.schedules import schedule
from decathlon.storage import digest
from decathlon.tasks.kele.world.facts import PREFIXES, Sentence, World, world_tokenizer
from decathlon.tasks.kele.world.forward import last_token_logits

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorldTraining:
    """The world, the model's shape and its training. The defaults leave a model that knows every fact it was shown
    and composes them well but not perfectly for people it never saw composed."""

    seed: int = 0
    people: int = 200
    composed: float = 0.75
    layers: int = 5
    width: int = 64
    heads: int = 4
    inner: int = 256
    steps: int = 1200
    batch_size: int = 128
    lr: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.3
    dropout: float = 0.0
    label_smoothing: float = 0.0
    prefixed: float = 0.4

    def __post_init__(self) -> None:
        positive = {"layers": self.layers, "steps": self.steps, "lr": self.lr, "warmup": self.warmup}
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.batch_size < 2 or self.batch_size % 2:
            raise ValueError(f"batch_size is half one-hop and half two-hop rows: an even number, got {self.batch_size}")
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is not divisible by heads={self.heads}")
        for name, share in {"dropout": self.dropout, "label_smoothing": self.label_smoothing}.items():
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be in [0, 1), got {share}")

    def world(self) -> World:
        """The world that the model is trained on."""
        return World(self.seed, self.people, self.composed)

    def path(self, root: str | Path) -> Path:
        """Where the trained model lies: one file per different training, and per content of what it is trained on."""
        world = self.world()
        sentences = [[s.prompt, s.answer] for s in (*world.one_hop(), *world.two_hop(world.composed))]
        key = digest(asdict(self), world_tokenizer().get_vocab(), list(PREFIXES), sentences)
        return Path(root) / "kele" / f"world-{key}.safetensors"


@dataclass(frozen=True)
class Rows:
    """Sentences as tokens: ``ids`` (rows, longest) padded on the right, ``lengths`` and ``targets`` (rows,)."""

    ids: Tensor
    lengths: Tensor
    targets: Tensor

    @classmethod
    def of(cls, sentences: Sequence[Sentence], tokenizer: PreTrainedTokenizerFast) -> "Rows":
        """Tokenise prompts and their (single-token) answers."""
        tokens = [torch.tensor(ids) for ids in tokenizer([sentence.prompt for sentence in sentences]).input_ids]
        answers = tokenizer([sentence.answer for sentence in sentences], add_special_tokens=False).input_ids
        padded = torch.nn.utils.rnn.pad_sequence(
            tokens, batch_first=True, padding_value=float(tokenizer.pad_token_id or 0)
        )
        return cls(padded, torch.tensor([len(ids) for ids in tokens]), torch.tensor([ids[0] for ids in answers]))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Tensor) -> "Rows":
        return Rows(self.ids[index], self.lengths[index], self.targets[index])


def with_prefixes(sentences: Sequence[Sentence]) -> list[Sentence]:
    """The sentences as they are, then once more behind each prefix: prefix j of sentence i is row j · n + i."""
    texts = ["", *(prefix + " " for prefix in PREFIXES)]
    return [Sentence(text + sentence.prompt, sentence.answer) for text in texts for sentence in sentences]


def draw(rows: Rows, count: int, prefixed: float, generator: torch.Generator) -> Rows:
    """``count`` random sentences of ``rows`` (from ``with_prefixes``), a share ``prefixed`` of them behind a prefix."""
    sentences = len(rows) // (1 + len(PREFIXES))
    index = torch.randint(sentences, (count,), generator=generator)
    prefix = torch.randint(1, 1 + len(PREFIXES), (count,), generator=generator)
    prefix *= torch.rand(count, generator=generator) < prefixed
    return rows[prefix * sentences + index]


def empty_model(config: WorldTraining) -> GPT2LMHeadModel:
    """A GPT-2 of the given shape with random weights (from torch's global generator)."""
    tokenizer = world_tokenizer()
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=tokenizer.model_max_length,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            n_inner=config.inner,
            activation_function="gelu_pytorch_tanh",
            embd_pdrop=config.dropout,
            resid_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train(config: WorldTraining, world: World | None = None) -> GPT2LMHeadModel:
    """Train on the object token alone: half of each batch are one-hop sentences, half two-hop ones.

    AdamW with a linear warm-up and a cosine down to a tenth of the learning rate, weight decay on matrices only,
    gradients clipped at norm 1. The result is a function of ``config`` and ``world`` (default: the config's own).

    Returns:
        the model in evaluation mode, in float32, on the CPU.
    """
    world = world or config.world()
    tokenizer = world_tokenizer()
    one_hop = Rows.of(with_prefixes(world.one_hop()), tokenizer)
    two_hop = Rows.of(with_prefixes(world.two_hop(world.composed)), tokenizer)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = empty_model(config).train()
        matrices = [p for p in model.parameters() if p.ndim == 2]
        vectors = [p for p in model.parameters() if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)
        # Where the training is shorter than its warm-up it ends within it.
        rate = schedule("cosine", max(config.steps, config.warmup + 1), config.warmup, end=0.1)
        for step in range(config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * rate(step)
            half = config.batch_size // 2
            ones = draw(one_hop, half, config.prefixed, generator)
            twos = draw(two_hop, half, config.prefixed, generator)
            width = max(ones.ids.shape[1], twos.ids.shape[1])
            ids = torch.cat([F.pad(part.ids, (0, width - part.ids.shape[1])) for part in (ones, twos)])
            logits = last_token_logits(model, ids, torch.cat([ones.lengths, twos.lengths]))
            targets = torch.cat([ones.targets, twos.targets])
            loss = F.cross_entropy(logits, targets, label_smoothing=config.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if (step + 1) % 200 == 0 or step + 1 == config.steps:
                log.info("world model: step %d of %d, loss %.4f", step + 1, config.steps, loss.item())
    return model.eval()


def prepare(root: str | Path, config: WorldTraining) -> Path:
    """Train the model of ``config`` unless it lies under ``root``; concurrent callers wait. Returns its path."""

    path = config.path(root)

    def make() -> GPT2LMHeadModel:
        log.info("training the world model, once: %s", config)
        return train(config)

    def save(model: GPT2LMHeadModel, target: Path) -> None:
        save_file({name: t.contiguous() for name, t in model.transformer.state_dict().items()}, target)

    def found(target: Path) -> None:
        """Nothing to read yet."""

    cached(path, make, save, found)  # type: ignore[misc]  # made here, read by `load`
    return path


def load(root: str | Path, config: WorldTraining) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """The trained model (trained now if need be), frozen, and its tokenizer."""
    weights = load_file(prepare(root, config))
    with torch.random.fork_rng(devices=[]):
        model = empty_model(config)
    model.transformer.load_state_dict(weights)
    return model.requires_grad_(False).eval(), world_tokenizer()


@torch.no_grad()
def accuracy(model: GPT2LMHeadModel, sentences: Sequence[Sentence], batch_size: int = 1024) -> float:
    """Share of the sentences whose last word is the model's arg-max."""
    rows = Rows.of(sentences, world_tokenizer())
    hits = 0
    for index in torch.arange(len(rows)).split(batch_size):
        part = rows[index]
        hits += int((last_token_logits(model, part.ids, part.lengths).argmax(-1) == part.targets).sum())
    return hits / len(rows)
