"""Speed of knowledge editing as ratios in one run on one model: editing, key statistics, evaluation.

    python scripts/bench/kele.py                       # a random GPT-2 of the world's size: 5 layers, width 64
    python scripts/bench/kele.py --model wide          # a random GPT-2 of 8 layers, width 256
    python scripts/bench/kele.py --model smollm2-135m --root data

Each peer is the plain way to do the same thing, and has to give the same result: whole forward passes, one edit, one
text, one prompt at a time. What batching saves is the cost of calling operations; where arithmetic outweighs it (a
wide model on few CPU cores) only what is computed once instead of often is saved, and the ratios say so. A ratio that
has a target is printed with it, and with ok or MISSED.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from typing import Any

import torch

from decathlon.language import decoder_of, encode, generate, load, run, score, tap, tiny_model, word_tokenizer
from decathlon.language.tokens import continuation_ids
from decathlon.tasks.kele import Edit, Moments, Rome
from decathlon.tasks.kele.editors.prompts import Prompted
from decathlon.tasks.kele.editors.recall import Objective, add_to_output
from decathlon.tasks.kele.editors.rome import value_norms


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words("Anna Bert Clara David Emma Frank Grace Henry Irene James Karen Louis Maria Nora Oscar Paula")
SURNAMES = _words("Smith Jones Brown Clark Lewis Young Walker Allen King Wright Scott Green Baker Adams Hill Reed")
COUNTRIES = _words("France Italy Spain Japan Brazil Canada Egypt India Kenya Norway Peru Poland")
TEMPLATES = ["{} was born in", "{} is a citizen of", "The home country of {} is", "{} lives and works in"]
RANDOM = {
    "tiny": {"width": 64, "layers": 5, "heads": 4, "inner": 256},
    "wide": {"width": 256, "layers": 8, "heads": 8, "inner": 1024},
}
TARGETS = {
    "editing": ("together / one by one", "<=", 0.4),
    "statistics": ("times faster than the loop", ">=", 2.0),
    "evaluation": ("times faster", ">=", 3.0),
}
FILLER = _words("the of and to in a is that it was for on are as with his they at be this from have or by one had not")


def edits(count: int) -> list[Edit]:
    """Made-up requests; the facts do not matter for speed."""
    drawn = random.Random(0)
    out = []
    for index in range(count):
        old, new = drawn.sample(COUNTRIES, 2)
        name = f"{drawn.choice(NAMES)} {drawn.choice(SURNAMES)}"
        out.append(Edit(TEMPLATES[index % len(TEMPLATES)], name, old, new))
    return out


def corpus(count: int) -> list[str]:
    """Texts of 5 to 60 words."""
    drawn = random.Random(1)
    return [" ".join(drawn.choice(FILLER + NAMES) for _ in range(drawn.randint(5, 60))) for _ in range(count)]


def build(name: str, root: str) -> tuple[Any, Any]:
    """The model: a random GPT-2, or a pretrained one."""
    if name not in RANDOM:
        return load(name, root)
    parts = [
        *TEMPLATES,
        *NAMES,
        *SURNAMES,
        *COUNTRIES,
        *FILLER,
        "Question: Answer: .",
        *(f"w{i}" for i in range(100 if name == "tiny" else 4000)),
    ]
    words = dict.fromkeys(word for part in parts for word in part.split() if word != "{}")
    tokenizer = word_tokenizer(list(words))
    return tiny_model("gpt2", len(tokenizer), positions=1024, **RANDOM[name]), tokenizer


def timed(function: Callable[[], Any], repeat: int) -> tuple[float, Any]:
    """Least seconds of some calls, and the last result."""
    best, value = float("inf"), None
    for _ in range(repeat):
        began = time.perf_counter()
        value = function()
        best = min(best, time.perf_counter() - began)
    return best, value


def plain_recall(model: Any, layer: int, edit: Prompted, goal: Objective) -> torch.Tensor:
    """The recall vector of one edit by whole forward passes of its padded rows, as the published code does it."""
    rows = [*([*prompt, *edit.new[:-1]] for prompt in edit.prompts), edit.essence]
    places = torch.tensor([*edit.subjects, edit.essence_subject])
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    index = torch.arange(len(rows))
    module = model.get_submodule(decoder_of(model).name("mlp", layer))
    h = torch.zeros(model.config.hidden_size, requires_grad=True)
    adam = torch.optim.Adam([h], lr=goal.lr)
    value: list[torch.Tensor] = []
    before: torch.Tensor | None = None

    def add(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        value.append(output[0, places[0]].detach())
        moved = output.clone()
        moved[index, places] = moved[index, places] + h
        return moved

    handle = module.register_forward_hook(add)
    for step in range(goal.steps):
        logp = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
        targets = [logp[row, len(p) - 1 + torch.arange(len(edit.new))] for row, p in enumerate(edit.prompts)]
        nll = -torch.stack([t[torch.arange(len(edit.new)), torch.tensor(edit.new)].mean() for t in targets]).mean()
        after = logp[-1, edit.essence_subject]
        before = after.detach() if before is None else before
        kl = (before.exp() * (before - after)).sum()
        loss = nll + goal.beta * kl + goal.omega * h.norm() / value[0].norm() ** 2
        if step + 1 == goal.steps:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            limit = goal.clamp * value[0].norm()
            h.mul_(limit / h.norm()) if h.norm() > limit else None
    handle.remove()
    return h.detach()


def bench_editing(model: Any, tokenizer: Any, args: argparse.Namespace) -> dict[str, float]:
    """Recall vectors and updates of many edits together, one by one, and by the plain loop; equal steps for all."""
    contexts = ["the", "it was", "they had that", "with this one", "not for his"]
    editor = Rome(
        model, tokenizer, args.layer, corpus=corpus(64), contexts=contexts, ridge=1e-3, steps=args.steps, stop=0.0,
        max_tokens=args.max_tokens,
    )  # fmt: skip
    editor.moments.compute([editor.layer])
    requests = edits(args.edits)
    prompted = editor.tokenised(requests)
    editor.plan(requests[:1])
    together, batch = timed(lambda: editor.find(prompted, editor.layer, value_norms, add_to_output), args.repeat)
    single, ones = timed(
        lambda: [editor.find([edit], editor.layer, value_norms, add_to_output) for edit in prompted], args.repeat
    )
    plain, loops = timed(
        lambda: [plain_recall(model, editor.layer, edit, editor.objective) for edit in prompted], args.repeat
    )
    vectors = batch.recall.vectors[:, 0]
    scale = float(vectors.norm(dim=1).max())
    return {
        "edits": args.edits,
        "seconds per edit, together": together / args.edits,
        "seconds per edit, one by one": single / args.edits,
        "seconds per edit, plain loop": plain / args.edits,
        "together / one by one": together / single,
        "together / plain loop": together / plain,
        "largest difference to one by one": float(
            (vectors - torch.cat([o.recall.vectors[:, 0] for o in ones])).abs().max()
        )
        / scale,
        "largest difference to plain loop": float((vectors - torch.stack(loops)).abs().max()) / scale,
    }


def bench_statistics(model: Any, tokenizer: Any, args: argparse.Namespace) -> dict[str, float]:
    """C of one layer, against a loop over texts with whole passes, and against one whose passes end at the layer."""
    texts = corpus(args.texts)
    layer = args.layer
    name = decoder_of(model).name("down", layer)

    def loop(stop: bool) -> torch.Tensor:
        total, tokens = torch.zeros(()).double(), 0
        for row in encode(tokenizer, texts):
            with torch.no_grad(), tap(model, [name], keep=("input",), stop=stop) as taps:
                run(model, torch.tensor([row]))
            keys = taps.inputs[name][0]
            total, tokens = total + (keys.T @ keys).double(), tokens + len(keys)
        return total / tokens

    ours, moment = timed(lambda: Moments(model, tokenizer, texts, ridge=0.0).moment(layer), args.repeat)
    whole, expected = timed(lambda: loop(False), args.repeat)
    short, _ = timed(lambda: loop(True), args.repeat)
    return {
        "texts": args.texts,
        "seconds": ours,
        "seconds, loop over texts": whole,
        "seconds, loop that ends at the layer": short,
        "times faster than the loop": whole / ours,
        "times faster than the loop that ends at the layer": short / ours,
        "largest relative difference": float((moment - expected).abs().max() / expected.abs().max()),
    }


@torch.inference_mode()
def bench_evaluation(model: Any, tokenizer: Any, args: argparse.Namespace) -> dict[str, float]:
    """Scores of two answers per question and generated answers, behind shared demonstrations, one case at a time."""
    drawn = random.Random(2)
    shots = " ".join(
        f"Question: {drawn.choice(TEMPLATES).format(drawn.choice(NAMES))} Answer: {drawn.choice(COUNTRIES)} ."
        for _ in range(args.shots)
    )
    cases = edits(args.cases)
    asked = [[f"{shots} Question: {t.format(e.subject)} Answer:" for t in TEMPLATES[:3]] for e in cases]
    facts = [[t.format(e.subject) for t in TEMPLATES] for e in cases]

    def ours() -> tuple[list[torch.Tensor], list[list[str]]]:
        totals, texts = [], []
        for edit, questions, prompts in zip(cases, asked, facts):
            both = [p for p in [*prompts, *questions] for _ in range(2)]
            answers = [f" {edit.new}", f" {edit.old}"] * (len(both) // 2)
            totals.append(score(model, tokenizer, both, answers).total)
            texts.append(generate(model, tokenizer, questions, args.new_tokens))
        return totals, texts

    def plain() -> tuple[list[torch.Tensor], list[list[str]]]:
        totals, texts = [], []
        for edit, questions, prompts in zip(cases, asked, facts):
            values = []
            for prompt in [*prompts, *questions]:
                for answer in (edit.new, edit.old):
                    (ids,), more = encode(tokenizer, [prompt]), continuation_ids(tokenizer, f" {answer}")
                    logp = model(torch.tensor([ids + more])).logits[0, len(ids) - 1 : -1].double().log_softmax(-1)
                    values.append(logp[torch.arange(len(more)), torch.tensor(more)].sum())
            totals.append(torch.stack(values))
            made = []
            for question in questions:
                start = torch.tensor(encode(tokenizer, [question]))
                out = model.generate(
                    start, attention_mask=torch.ones_like(start), max_new_tokens=args.new_tokens, do_sample=False,
                    pad_token_id=0,
                )  # fmt: skip
                made.append(tokenizer.decode(out[0, start.shape[1] :], skip_special_tokens=True))
            texts.append(made)
        return totals, texts

    generate(model, tokenizer, asked[0][:1], 1)
    fast, (totals, texts) = timed(ours, args.repeat)
    slow, (expected, others) = timed(plain, args.repeat)
    return {
        "cases": args.cases,
        "tokens of the demonstrations": len(encode(tokenizer, [shots])[0]),
        "seconds per case": fast / args.cases,
        "seconds per case, one prompt at a time": slow / args.cases,
        "times faster": slow / fast,
        "largest difference of log-probabilities": float((torch.cat(totals) - torch.cat(expected)).abs().max()),
        "equal texts": sum(a == b for x, y in zip(texts, others) for a, b in zip(x, y)) / (3 * args.cases),
    }


def verdict(bench: str, key: str, value: float) -> str:
    """What is wanted of a ratio and whether it is met; empty for a number without a target."""
    name, sign, bound = TARGETS[bench]
    if key != name:
        return ""
    met = value <= bound if sign == "<=" else value >= bound
    return f"   wanted {sign} {bound:<4g} {'ok' if met else 'MISSED'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, wide, smollm2-135m, a folder or a hub name")
    parser.add_argument("--root", default="data", help="where pretrained weights are kept")
    parser.add_argument("--layer", type=int, default=None, help="the edited layer; default: a sixth of the way up")
    parser.add_argument("--edits", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=None, help="columns with gradients at a time")
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--shots", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--only", choices=["editing", "statistics", "evaluation"])
    parser.add_argument("--json", help="write the numbers here")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model, tokenizer = build(args.model, args.root)
    args.layer = Rome(model, tokenizer).layer if args.layer is None else args.layer
    benches = {"editing": bench_editing, "statistics": bench_statistics, "evaluation": bench_evaluation}
    results = {}
    for name, bench in benches.items():
        if args.only in (None, name):
            results[name] = bench(model, tokenizer, args)
            print(f"\n{name} ({args.model}, layer {args.layer}, {torch.get_num_threads()} threads)")
            for key, value in results[name].items():
                print(f"  {key:52s} {value:<10.4g}{verdict(name, key, value)}".rstrip())
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"model": args.model, "threads": torch.get_num_threads(), **results}, file, indent=1)


if __name__ == "__main__":
    main()
