"""docs/own-data.md: each paper's example runs as it is printed; and what is wrong with a file is one line."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import decathlon
from tests.conftest import ROOT, Door

PAGE = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+):.*?\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE))
BLOCKS = {task: re.findall(r"```(\w+)(?: (\S+))?\n(.*?)```", text, flags=re.DOTALL) for task, text in SECTIONS.items()}


def tiny_gpt2(folder: Path) -> None:
    """A model in the place of the one that the page downloads."""
    from decathlon.language.tiny import tiny_model, word_tokenizer

    texts = re.findall(r'"([^"]+)"', next(text for _, name, text in BLOCKS["kele"] if name == "edits.json"))
    tokenizer = word_tokenizer([word for text in texts for word in text.replace("{}", " ").split()])
    tiny_model("gpt2", len(tokenizer), layers=6).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_reader(folder: Path) -> None:
    """The same for CoRA, whose answers must be two tokens."""
    from decathlon.language.tiny import tiny_model
    from decathlon.tasks.cora.decoder import catalogue_tokenizer

    tokenizer = catalogue_tokenizer()
    tiny_model("gpt2", len(tokenizer), layers=3, positions=256).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_files(task: str, folder: Path) -> None:
    for _, name, text in BLOCKS[task]:
        if name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    if task == "kele":
        tiny_gpt2(folder / "gpt2")
    if task == "cora":
        tiny_reader(folder / "gpt2")


def test_every_task_has_an_example() -> None:
    from decathlon.runner import catalog

    assert set(catalog.tasks()) - {"toy"} == set(SECTIONS)


@pytest.mark.parametrize("task", SECTIONS)
def test_the_example_runs_as_printed(
    task: str,
    here: Path,
    run_here: Door,
    decathlon_here: Door,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_files(task, here)
    doors = {"run": run_here, "decathlon": decathlon_here}
    ran = 0
    for language, name, text in BLOCKS[task]:
        if language == "sh":
            for line in text.splitlines():
                words = shlex.split(line, comments=True)
                while "=" in words[0]:  # variables before the command
                    variable, _, value = words.pop(0).partition("=")
                    if variable == "PYTHONPATH":
                        monkeypatch.syspath_prepend(str(here / value))
                    monkeypatch.setenv(variable, value)
                done = doors[words[0]](*words[1:])
                assert done.status == 0, (line, done.stderr)
                ran += 1
        elif language == "python" and not name:
            exec(compile(text, f"docs/own-data.md {task}", "exec"), {})
    assert ran
    if task == "kele":  # what the page of uses says of own edits
        edited = decathlon.load(next(here.glob("results/kele/edits/*/*")))
        assert set(edited.updates) == {"1", "2"}
        edited.write("1", "2")
    for line in re.findall(r"record (\S+)", done.stdout)[:1]:
        metrics = json.loads((here / line).read_text())["metrics"]
        assert any(value is not None for name, value in metrics.items() if name.startswith("test/"))
    for name in ("rod", "first_price"):
        sys.modules.pop(name, None)


MOLPEG = ["task=molpeg", "dataset=csv", "file=mine.csv"]
KELE = ["task=kele", "dataset=edits", "file=mine.json", "model=gpt2"]
CUSTOM = ["task=jregnet", "method=custom"]


@pytest.mark.parametrize(
    ("overrides", "content", "message"),
    [
        (["task=molpeg", "dataset=csv"], "", "file=<path of a CSV>"),
        (["task=molpeg", "dataset=csv", "file=none.csv"], "", "none.csv not found"),
        (["task=molpeg", "dataset=hiv", "file=mine.csv"], "", "file is no key of this run"),
        (MOLPEG, "smiles;a\nC;1\nCC;0\n", "its columns: smiles;a; set sep=\"';'\""),
        ([*MOLPEG, "smiles=SMI"], "smiles,a\nC,1\nCC,0\n", "has no column SMI"),
        ([*MOLPEG, "labels=[b]"], "smiles,a\nC,1\nCC,0\n", "has no column b; its columns: smiles, a"),
        ([*MOLPEG, "split_column=part"], "smiles,a\nC,1\nCC,0\n", "has no column part"),
        ([*MOLPEG, "split_column=part"], "smiles,a,part\nC,1,train\nCC,0,trian\n", "column part says trian"),
        ([*MOLPEG, "split_column=part"], "smiles,a,part\nC,1,train\nCC,0,val\n", "too few, the train part has 1"),
        (MOLPEG, "smiles,a\n" + "C,1\n" * 40, "all known labels are 1"),
        (MOLPEG, "smiles,a\n" + "C,2\n" * 40, "neither 0 nor 1; give its source what each label means"),
        (
            [*MOLPEG, "task_type=ranking"],
            "smiles,a\nC,1\n",
            "task_type=ranking is unknown; choose classification, regr",
        ),
        (["task=kele", "dataset=edits"], "", "file=<path of a JSON file>"),
        (KELE, "{", "neither a JSON list nor lines of JSON"),
        (KELE, "[]", "holds no record"),
        (KELE, '[{"prompt": "{} is in", "subject": "A"}, 3]', "record 1: it has no new (2 of 2 records are wrong)"),
        (
            KELE,
            '[{"prompt": "{} is in", "subject": "A", "new": "B", "paraphrase": []}]',
            "paraphrase is no key of an edit",
        ),
        (KELE, '[{"prompt": "It is in", "subject": "A", "new": "B"}]', "has no slot"),
        (KELE, '[{"prompt": "{} is", "subject": "A", "new": "B", "neighbours": ["C is"]}]', "needs an answer"),
        (
            KELE,
            '[{"prompt": "{} is", "subject": "A", "new": "B", "questions": ["C?"]}]',
            "a question is {question, new, old}",
        ),
        (
            KELE,
            '{"prompt": "{} is", "subject": "A", "new": "B", "id": 1}\n' * 2,
            "the id 1 twice",
        ),
        (
            [*KELE, "dataset.known=answer"],
            '[{"prompt": "{} is", "subject": "A", "new": "B"}]',
            "asks for the old object",
        ),
        ([*CUSTOM, "method.mechanism=nowhere:rule"], "", "there is no module nowhere here"),
        ([*CUSTOM, "method.mechanism=nowhere.py:rule"], "", "there is no file nowhere.py"),
        ([*CUSTOM, "method.mechanism=rule"], "", "is not <module>:<function>"),
        ([*CUSTOM, "method.mechanism=math:rule"], "", "math has no function rule"),
        ([*CUSTOM, "method.mechanism=math:sqrt"], "", "must take (auction, bids, present=None)"),
    ],
)
def test_what_is_wrong_is_one_line(
    overrides: list[str], content: str, message: str, here: Path, run_here: Door
) -> None:
    for name in ("mine.csv", "mine.json"):
        if name in " ".join(overrides) and content:
            (here / name).write_text(content)
    said = run_here(*overrides, "trainer=cpu")
    assert said.status == 2 and said.stderr.count("\n") == 1 and message in said.stderr, said.stderr


def test_several_labels_have_metrics_of_their_own(here: Path, run_here: Door) -> None:
    from random import Random

    draw = Random(0)
    rows = [f"{'C' * draw.randint(1, 9)}O,{draw.randint(0, 1)},{draw.choice(('yes', 'no', ''))}" for _ in range(80)]
    (here / "mine.csv").write_text("smiles,a,b\n" + "\n".join(rows))
    said = run_here(*MOLPEG, "classes={yes:1,no:0,0:0,1:1}", "epochs=1", "trainer=cpu")
    assert said.status == 0, said.stderr
    (record,) = here.glob("results/molpeg/csv/*/*/metrics.json")
    metrics = json.loads(record.read_text())["metrics"]
    assert {"test/roc_auc", "test/roc_auc/a", "test/roc_auc/b", "test/average_precision/a"} <= set(metrics)
    assert metrics["test/roc_auc"] == pytest.approx(
        (metrics["test/roc_auc/a"] + metrics["test/roc_auc/b"]) / 2, abs=1e-6
    )
