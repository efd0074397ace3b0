"""Builds a processed Amazon set from the public files of 2014 (product reviews, metadata, image features).

    python -m decathlon.tasks.ckd.amazon Baby data

reads ``reviews_Baby_5.json.gz``, ``meta_Baby.json.gz`` and ``image_features_Baby.b`` below ``data`` and writes
``data/baby/``: train.json, val.json, test.json, image_feat.npy (4,096-d) and text_feat.npy, for ``dataset=baby``.
The text is embedded by a sentence encoder of the Hugging Face hub, by default the published one (1,024-d).
"""

import argparse
import ast
import gzip
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decathlon.errors import DataError, UserError
from decathlon.files import atomic, raw_file
from decathlon.progress import track
from decathlon.recommendation.interactions import Interactions
from decathlon.recommendation.splits import per_user

log = logging.getLogger(__name__)

ENCODER = "sentence-transformers/stsb-roberta-large"
IMAGE_DIM = 4096
Encode = Callable[[Sequence[str]], np.ndarray]


def build(root: str | Path, category: str, encode: Encode, seed: int = 123, image_dim: int = IMAGE_DIM) -> Path:
    """Build one category; returns the folder.

    Users and items are numbered by first appearance, users' rows are split as by :func:`per_user`. An item without an
    image gets the mean of the items that have one.

    Raises:
        DataError: a file is missing or broken.
    """
    root = Path(root)
    reviews = raw_file(root, [f"reviews_{category}_5.json.gz"])
    metadata = raw_file(root, [f"meta_{category}.json.gz"])
    images = raw_file(root, [f"image_features_{category}.b"])
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    pairs: dict[tuple[int, int], None] = {}
    for record in _records(reviews, json.loads):
        user = users.setdefault(record["reviewerID"], len(users))
        pairs[user, items.setdefault(record["asin"], len(items))] = None
    user, item = torch.tensor(list(pairs), dtype=torch.int64).T.contiguous()
    split = per_user(Interactions(user, item, len(users), len(items)), seed)
    texts = [""] * len(items)
    for record in _records(metadata, ast.literal_eval):
        if record["asin"] in items:
            texts[items[record["asin"]]] = sentence(record)
    folder = root / category.split("_")[0].lower()
    _save(folder / "image_feat.npy", _images(images, items, image_dim))
    _save(folder / "text_feat.npy", np.asarray(encode(texts), dtype=np.float32))
    for name, part in split._asdict().items():
        lists = {str(u): part.lists[u].tolist() for u in range(len(users))}
        with atomic(folder / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(lists))
    sizes = ", ".join(str(len(part)) for part in split)
    log.info("%s: %d users, %d items, %s rows", folder, len(users), len(items), sizes)
    return folder


def sentence(record: Mapping[str, Any]) -> str:
    """What is embedded of an item: categories, title, the title again where there is a brand (as published), text."""
    categories = [name for path in record.get("categories", []) for name in path]
    title = record.get("title", "")
    parts = [*categories, title, title if "brand" in record else "", record.get("description", "")]
    return " ".join(" ".join(part for part in parts if part).split())


def _records(path: Path, parse: Callable[[str], Any]) -> Iterator[Mapping[str, Any]]:
    """The records of a gzipped file with one a line."""
    number = 0  # where it breaks
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in track(file, f"reading {path.name}"):
                record = parse(line)
                record["asin"]
                yield record
                number += 1
    except (OSError, EOFError, ValueError, SyntaxError, KeyError, TypeError) as error:
        raise DataError(f"{path} is broken after line {number} ({type(error).__name__}: {error})") from error


def _images(path: Path, items: Mapping[str, int], dim: int) -> np.ndarray:
    """Features (items, dim) of a file of records: ten letters and ``dim`` float32."""
    found = np.zeros((len(items), dim), dtype=np.float32)
    seen = np.zeros(len(items), dtype=bool)
    size = 10 + 4 * dim
    if path.stat().st_size % size:
        raise DataError(f"{path} is broken: its length is no multiple of {size} bytes")
    with path.open("rb") as file:
        while record := file.read(size):
            place = items.get(record[:10].decode("ascii", errors="replace"))
            if place is not None:
                found[place], seen[place] = np.frombuffer(record[10:], dtype="<f4"), True
    if not seen.any():
        raise DataError(f"{path} has none of the {len(items)} items")
    found[~seen] = found[seen].mean(0)
    if not seen.all():
        log.info("%d of %d items have no image and get the mean", int((~seen).sum()), len(items))
    return found


def _save(path: Path, values: np.ndarray) -> None:
    with atomic(path) as temporary:
        np.save(temporary, values)


def encoder(name: str, batch: int = 32) -> Encode:
    """The mean of a model's last token vectors, as the sentence encoders of the hub are used."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> np.ndarray:
        found = []
        for begin in track(range(0, len(texts), batch), "embedding texts"):
            chosen = list(texts[begin : begin + batch])
            tokens = tokenizer(chosen, padding=True, truncation=True, max_length=128, return_tensors="pt").to(
                model.device
            )
            mask = tokens["attention_mask"][..., None].float()
            hidden = model(**tokens).last_hidden_state.float()
            found.append(((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu().numpy())
        return np.concatenate(found)

    return encode


def main(arguments: list[str] | None = None) -> None:
    """The command of the module's first lines."""
    parser = argparse.ArgumentParser(description="build a processed Amazon set of 2014")
    parser.add_argument("category", help="Baby, Beauty, Sports_and_Outdoors, Clothing_Shoes_and_Jewelry")
    parser.add_argument("root", type=Path, help="data folder")
    parser.add_argument("--encoder", default=ENCODER, help="a model of the Hugging Face hub, or its folder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        for name in (f"reviews_{options.category}_5.json.gz", f"meta_{options.category}.json.gz"):
            raw_file(options.root, [name])
        build(options.root, options.category, encoder(options.encoder))
    except (UserError, OSError) as error:
        raise SystemExit(str(error).splitlines()[0]) from error


if __name__ == "__main__":
    main()
