"""CoRA's scoring and training against the plain way, on a decoder of SmolLM2-135M's shape: ratios of one run.

    python scripts/bench/cora.py [--rows 32] [--repeats 3] [--layers 30]

The plain way: unmodified transformers modules, each adapted projection with a LoRA-like branch of its own, batches in
the order of arrival padded on the left, logits of all positions and words. Ours: batches of similar length padded
on the right, one product per input, the last position through two rows of the head. Both compute the same scores,
which is checked. The frozen model alone, on our batches and without any increment or head, is timed beside them: no
scoring that runs its blocks over all positions can be faster. One thread, CPU seconds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from decathlon.language.prefix import block_input, from_block
from decathlon.language.tokens import batches, pad
from decathlon.tasks.cora import CoRA
from decathlon.tasks.cora.data import BucketOrder
from decathlon.tasks.cora.decoder import answer_logits, last_hidden

BATCH = 8
ANSWERS = (9230, 2838)
FLOOR = "the frozen model alone"
TARGETS = {"scoring": 1.8, "training step": 1.4, "top two blocks, per training row": 10.0}


def decoder(layers: int) -> Any:
    """A random LLaMA of SmolLM2-135M's shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, num_hidden_layers=layers, num_attention_heads=9, num_key_value_heads=3,
        intermediate_size=1536, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def plain_hooks(cora: CoRA, weights: Tensor) -> list[Any]:
    """A branch per projection, none of which knows of the others."""
    handles = []
    for (kind, block), increment in cora.increments({576: weights}).items():
        module = cora.llm.model.layers[block].self_attn.get_submodule(f"{kind}_proj")

        def add(module: Any, args: Any, output: Tensor, increment: Any = increment) -> Tensor:
            return output + increment.scale * ((args[0] @ increment.first) @ increment.second)

        handles.append(module.register_forward_hook(add))
    return handles


def plain_scores(cora: CoRA, prompts: list[list[int]], users: Tensor, items: Tensor) -> Tensor:
    """Yes minus No, from the logits of every position and word."""
    ids, mask = pad(prompts, side="left")
    handles = plain_hooks(cora, cora.weights(users, items)[576])
    try:
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        logits = cora.llm(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -1]
    finally:
        for handle in handles:
            handle.remove()
    return logits[:, ANSWERS[0]] - logits[:, ANSWERS[1]]


def scores(cora: CoRA, prompts: list[list[int]], users: Tensor, items: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Yes minus No, from the last position and two rows of the head."""
    ids, mask = pad(prompts)
    with cora.personalised(users, items):
        if hidden is None:
            last = last_hidden(cora.llm, ids, mask.sum(1))
        else:
            with from_block(cora.llm, cora.first_block, hidden):
                last = last_hidden(cora.llm, ids, mask.sum(1))
    two = answer_logits(cora.llm, last, ANSWERS)
    return two[:, 0] - two[:, 1]


def frozen_scores(cora: CoRA, prompts: list[list[int]], users: Tensor, items: Tensor) -> Tensor:
    """No scores, but what they cannot do without: the blocks without increments."""
    ids, mask = pad(prompts)
    return last_hidden(cora.llm, ids, mask.sum(1))[:, 0]


def medians(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each way, taken in turns; they are disturbed less than the clock by other programs."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def measure(rows: int = 32, repeats: int = 3, layers: int = 30) -> dict[str, float]:
    """The ratios and the share of padding."""
    llm = decoder(layers)
    options: dict[str, Any] = {"queries": 4, "layers": 2, "heads": 8, "inner": 512}
    torch.manual_seed(1)
    cora = CoRA(llm, 64, 64, **options)
    for parameter in cora.outputs.values():
        torch.nn.init.normal_(parameter, std=0.3)
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(60, 140, (rows,), generator=generator)
    prompts = [torch.randint(0, 49_152, (int(n),), generator=generator).tolist() for n in lengths]
    users, items = torch.randn(rows, 64, generator=generator), torch.randn(rows, 64, generator=generator)
    arrival = [list(range(start, min(start + BATCH, rows))) for start in range(0, rows, BATCH)]
    similar = batches([len(one) for one in prompts], BATCH * 140, waste=0.1)

    def all_rows(way: Callable[..., Tensor], groups: list[list[int]]) -> Tensor:
        out = torch.zeros(rows)
        with torch.no_grad():
            for group in groups:
                out[group] = way(cora, [prompts[i] for i in group], users[group], items[group])
        return out

    cora.eval()
    torch.testing.assert_close(all_rows(scores, similar), all_rows(plain_scores, arrival), rtol=1e-3, atol=1e-3)
    found = medians(
        {
            "plain": lambda: all_rows(plain_scores, arrival),
            "ours": lambda: all_rows(scores, similar),
            "frozen": lambda: all_rows(frozen_scores, similar),
        },
        repeats,
    )
    ratios = {"scoring": found["plain"] / found["ours"], FLOOR: found["plain"] / found["frozen"]}

    def step(model: CoRA, way: Callable[..., Tensor], group: list[int], **given: Any) -> None:
        way(model, [prompts[i] for i in group], users[group], items[group], **given).square().mean().backward()
        model.zero_grad()

    order = BucketOrder(lengths, BATCH, 0)
    mine = [order.batch(number).tolist() for number in range(min(2, order.steps_per_epoch))]
    top = CoRA(llm, 64, 64, blocks=2, **options)
    with torch.no_grad():
        kept = [block_input(llm, top.first_block, pad([prompts[i] for i in group])[0]) for group in mine]

    def steps(way: Callable[[int], object]) -> Callable[[], object]:
        return lambda: [way(number) for number in range(len(mine))]

    found = medians(
        {
            "plain": steps(lambda n: step(cora, plain_scores, arrival[n])),
            "ours": steps(lambda n: step(cora, scores, mine[n])),
            "top": steps(lambda n: step(top, scores, mine[n], hidden=kept[n])),
        },
        repeats,
    )
    ratios["training step"] = found["plain"] / found["ours"]
    ratios["top two blocks, per training row"] = found["ours"] / found["top"]
    many = torch.randint(60, 140, (2000,), generator=generator)
    order = BucketOrder(many, 16, 0)
    drawn = [many[order.batch(number)] for number in range(order.steps_per_epoch)]
    real = sum(int(part.sum()) for part in drawn)
    ratios["padding share"] = 1 - real / sum(int(part.max()) * len(part) for part in drawn)
    return ratios


def main() -> None:
    """Print the ratios and whether each target is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=30)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, value in measure(given.rows, given.repeats, given.layers).items():
        if name in TARGETS:
            print(f"{name:34} {value:6.2f} times the plain way; target {TARGETS[name]}: {_met(value >= TARGETS[name])}")
        elif name == FLOOR:
            print(f"{name:34} {value:6.2f} times the plain way: about the most that scoring can reach")
        else:
            print(f"{name:34} {value:6.1%}; target below 5 %: {_met(value < 0.05)}")


def _met(met: bool) -> str:
    return "met" if met else "not met"


if __name__ == "__main__":
    main()
