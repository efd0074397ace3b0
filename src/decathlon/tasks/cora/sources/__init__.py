"""Where logs come from. Each source is a function of the data folder and the dataset's config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decathlon.build import check_options
from decathlon.errors import ConfigError
from decathlon.tasks.cora.log import Log


def _sources() -> dict[str, Any]:
    from decathlon.tasks.cora.sources import amazon, catalogue, movielens, own

    return {
        "catalogue": catalogue.catalogue,
        "ml100k": movielens.ml100k,
        "ml1m": movielens.ml1m,
        "amazon_book": amazon.amazon_book,
        "csv": own.from_csv,
    }


def check_source(spec: Mapping[str, Any]) -> None:
    """Whether a dataset config names a source and gives it options that it has.

    Raises:
        ConfigError: one line.
    """
    known = _sources()
    if spec.get("source") not in known:
        raise ConfigError(f"dataset.source={spec.get('source')} is unknown; choose {', '.join(known)}")
    options = dict(spec.get("options") or {})
    check_options(known[spec["source"]], options, f"dataset={spec.get('name')}", also={"root": None, "seed": None})


def read(root: str | Path, spec: Mapping[str, Any], seed: int = 0) -> Log:
    """The log of a dataset config.

    Args:
        spec: ``source``, and its ``options``.
        seed: of generated data and random splits.

    Raises:
        DataError: one line, for files that are missing or broken.
    """
    check_source(spec)
    return _sources()[spec["source"]](Path(root), seed=seed, **dict(spec.get("options") or {}))
