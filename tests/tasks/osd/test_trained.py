"""What a job keeps of its language model: the same numbers without runner and data, and answers to a table of texts."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

import decathlon as package
from tests.conftest import Door
from tests.test_trained import answered, finished

TEXT = "\n\n".join(f"The number {i} is followed by {i + 1}, as everybody knows who can count." for i in range(400))


@pytest.mark.parametrize(
    ("method", "tokens"), [("osd", "byte"), ("adamw", "bpe"), ("lora", "byte"), ("relora", "bpe"), ("low_rank", "byte")]
)
def test_the_loaded_model_is_that_of_the_job(method: str, tokens: str, here: Path) -> None:
    (here / "count.txt").write_text(TEXT)
    own = ["dataset=text", "files=count.txt", f"method={method}", f"tokens={tokens}", "figures=false"]
    job, module = finished(here, "task=osd", *own)
    batch = module.data._collate("test", module.data.held_out("test")[0])["ids"]
    windows = [module.data._collate("test", places)["ids"] for places in module.data.held_out("test")]
    shutil.copytree(job.folder / "trained", here / "sent")
    shutil.rmtree(here / "data")
    (here / "count.txt").unlink()
    found = package.load(here / "sent")
    with torch.no_grad():
        assert torch.equal(found.logits(batch), module.model.eval()(input_ids=batch).logits)
    texts = [found.tokenizer.decode(ids.tolist()) for ids in torch.cat(windows)]
    nats, counts, size = found.losses(texts)
    metrics = json.loads((job.folder / "metrics.json").read_text())["metrics"]
    # Other batches than in the job: sums in another order. A text that is cut inside of a word has other tokens.
    exact = 1e-5 if tokens == "byte" else 0.2
    assert float(nats.sum() / counts.sum()) == pytest.approx(metrics["test/loss"], rel=exact)
    assert float(nats.sum() / size.sum()) / math.log(2) == pytest.approx(metrics["test/bits_per_byte"], rel=exact)
    found.save(here / "folder")
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(here / "folder")
    torch.testing.assert_close(plain(input_ids=batch).logits, found.logits(batch), rtol=1e-4, atol=1e-4)


def test_texts_of_any_length_in_any_order(here: Path, decathlon_here: Door) -> None:
    (here / "count.txt").write_text(TEXT)
    job, _ = finished(here, "task=osd", "dataset=text", "files=count.txt", "figures=false")
    found = package.load(job.folder)
    long = TEXT[:100]
    ids = torch.tensor([list(long.encode())])
    pieces = [ids[:, at : at + found.length] for at in range(0, 99, found.length - 1)]
    alone = [found.model(input_ids=piece, labels=piece).loss * (piece.shape[1] - 1) for piece in pieces]
    nats, counts, size = found.losses(["é!", long, "ab"])
    assert counts.tolist() == [2.0, 99.0, 1.0] == size.tolist()
    assert float(nats[1]) == pytest.approx(float(sum(alone)), rel=1e-5)
    assert torch.allclose(found.losses([long])[0], nats[1:2], rtol=1e-5)
    assert float(found.perplexity(["ab"])[0]) == pytest.approx(2 ** float(found.bits_per_byte(["ab"])[0]))
    assert found.perplexity(["", "a"]).isnan().all()
    rows, said = answered(decathlon_here, job, f'n,text\n1,{long[:70]!r}\n2,a\n3,"two\nlines"\n4\n'.replace("'", '"'))
    assert [row["n"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[2]["bits_per_byte"]) == pytest.approx(float(found.bits_per_byte(["two\nlines"])[0]), rel=1e-5)
    assert rows[0]["perplexity"] and rows[1]["perplexity"] == rows[3]["perplexity"] == ""
    assert "2 of 4 rows" in said and "line 3: the text has fewer than two tokens" in said and "line 6: 1 fields" in said
    Path("none.csv").write_text("words\na\n")
    refused = decathlon_here("predict", str(job.folder), "none.csv").stderr
    assert "the table has no column text; its columns: words" in refused


def test_it_goes_on_with_a_prompt(here: Path) -> None:
    (here / "count.txt").write_text(TEXT)
    job, _ = finished(here, "task=osd", "dataset=text", "files=count.txt", "figures=false", "tokens=bpe")
    found = package.load(job.folder)
    start = found.tokenizer("The number")["input_ids"]
    greedy = found.model.generate(torch.tensor([start]), max_new_tokens=6, do_sample=False)[0, len(start) :]
    end = (greedy == found.tokenizer.eos_token_id).nonzero()
    cut = greedy[: int(end[0])] if len(end) else greedy
    assert found.generate("The number", tokens=6) == found.tokenizer.decode(cut)
    drawn = found.generate("The number", tokens=6, top_k=50, seed=1)
    assert drawn == found.generate("The number", tokens=6, top_k=50, seed=1)
    assert len({found.generate("The number", tokens=6, top_k=50, seed=seed) for seed in range(4)}) > 1
    with pytest.raises(ValueError, match="no tokens"):
        found.generate("")
