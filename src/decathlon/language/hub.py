"""Texts of a dataset on the Hugging Face hub, streamed."""

from collections.abc import Iterator
from typing import Any

from decathlon.errors import DataError


def hub_texts(
    name: str, config: str | None, split: str, field: str = "text", shuffle: int | None = None
) -> Iterator[str]:
    """The texts of one split of a dataset, as they come over the network.

    Args:
        name, config, split: for example ``allenai/c4``, ``en``, ``train``. field: the key of the text.
        shuffle: seed of the stream's shuffling (a buffer of 10,000 texts); None: the order of the hub.

    Raises:
        DataError: one line, without the package ``datasets``, without a network, or for an unknown name or key.
    """
    try:
        from datasets import load_dataset  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise DataError("datasets of the hub need a package: pip install 'decathlon[hub]'") from error
    try:
        stream: Any = load_dataset(name, config, split=split, streaming=True)
        if shuffle is not None:
            stream = stream.shuffle(seed=shuffle, buffer_size=10_000)
        for row in stream:
            if field not in row:
                raise DataError(f"{name} has no key {field!r}; choose {', '.join(row)}")
            yield str(row[field])
    except DataError:
        raise
    except Exception as error:  # its errors are of a dozen types: unknown names, network, malformed files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{name} ({split}) cannot be read from the hub: {reason}") from error
