"""GLUE tasks, zero-shot, on a language model that a job has trained: Table 4, through EleutherAI's harness.

``pip install "decathlon[glue]"``, then ``python -m decathlon.tasks.osd.glue results/osd/c4/osd/<id>`` writes
``glue.json`` into the job's folder. The harness fetches its data from the Hugging Face hub. The paper does not say
which of the harness's numbers it prints for MRPC and QQP; here it is the accuracy.
"""

import argparse
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decathlon import trained
from decathlon.errors import ConfigError, DataError, UserError
from decathlon.files import write_text
from decathlon.tasks.osd.adapters import merged
from decathlon.tasks.osd.trained import Trained

TASKS = ("mrpc", "rte", "sst2", "mnli", "qnli", "qqp")
PAPER = {
    "GaLore": (0.6838, 0.5018, 0.5183, 0.3506, 0.4946, 0.3682),
    "OSD": (0.6982, 0.4901, 0.5233, 0.3654, 0.5142, 0.3795),
}
"""Accuracies of the 7B models, in the order of ``TASKS``."""


def evaluate(
    found: Trained, tasks: Sequence[Any] = TASKS, limit: int | None = None, batch_size: int = 8, **options: Any
) -> dict[str, float]:
    """The accuracy of a model on each task, zero-shot.

    Args:
        found: of ``decathlon.load``.
        tasks: names that the harness knows, or its task objects. limit: of documents, for a trial.
        options: of the harness's ``simple_evaluate``.

    Raises:
        ConfigError: in one line, the harness is not installed, or a task has no accuracy.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError('GLUE needs the harness: pip install "decathlon[glue]"')
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    plain: Any = merged(found.model)
    tokenizer = found.tokenizer
    marks = [mark for mark in (tokenizer.bos_token_id, tokenizer.eos_token_id) if mark is not None]
    # What stands before a text without context: bytes have no sign for a beginning, so a new line.
    before = marks[0] if marks else tokenizer.encode("\n", add_special_tokens=False)[0]
    language_model = HFLM(
        pretrained=plain, tokenizer=tokenizer, max_length=found.length, batch_size=batch_size, prefix_token_id=before,
        device=str(next(plain.parameters()).device),
    )  # fmt: skip
    answer = lm_eval.simple_evaluate(language_model, tasks=list(tasks), num_fewshot=0, limit=limit, **options)
    accuracy = {}
    for name, numbers in answer["results"].items():
        if "acc,none" not in numbers:
            raise ConfigError(f"{name} has no accuracy; the harness gives {', '.join(sorted(numbers))}")
        accuracy[name] = float(numbers["acc,none"])
    return accuracy


def _table(accuracy: dict[str, float]) -> str:
    """Our row beside the paper's, for the tasks that the paper has."""
    names = [name for name in TASKS if name in accuracy]
    rows = {"this job": [accuracy[name] for name in names]}
    rows |= {f"paper, {who}": [row[TASKS.index(name)] for name in names] for who, row in PAPER.items()}
    lines = [f"{'':<14}" + "".join(f"{name:>8}" for name in [*names, "mean"])]
    for who, values in rows.items():
        shown = [*values, sum(values) / len(values)]
        lines.append(f"{who:<14}" + "".join(f"{value:8.4f}" for value in shown))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command of the module's first lines."""
    parser = argparse.ArgumentParser(description="GLUE, zero-shot, on a trained job of task=osd")
    parser.add_argument("job", type=Path, help="the job's folder")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--limit", type=int, help="documents of each task, for a trial")
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args(arguments)
    try:
        found = trained.load(options.job)
        if not isinstance(found, Trained):
            raise DataError(f"{options.job} is no job of task=osd")
        accuracy = evaluate(found, options.tasks, options.limit, options.batch_size)
    except (UserError, OSError, ValueError) as error:
        raise SystemExit(f"error: {str(error).splitlines()[0]}") from error
    if options.limit is None:
        write_text(options.job / "glue.json", json.dumps(accuracy, indent=1))
    print(_table(accuracy))


if __name__ == "__main__":
    main()
