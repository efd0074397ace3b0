"""CelebA: forty binary attributes of faces, from the official files."""

import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from decathlon.errors import DataError
from decathlon.files import cached, raw_file
from decathlon.tasks.pinn.multitask.batches import Batches
from decathlon.tasks.pinn.multitask.labels import CELEBA_ATTRIBUTES, celeba_attributes

SPLITS = ("train", "val", "test")
_WHERE = "fetch it from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (non-commercial research only)"


def read_attributes(file: Path) -> tuple[list[str], np.ndarray]:
    """Image names and (n, 40) bool attributes of list_attr_celeba.txt.

    Raises:
        DataError: the header or a line is not as published, or the count in the first line is wrong.
    """
    lines = file.read_text().splitlines()
    if len(lines) < 3 or lines[1].split() != CELEBA_ATTRIBUTES:
        raise DataError(f"{file}: not CelebA's attribute list (a count, then the names of 40 attributes)")
    names, rows = [], []
    for number, line in enumerate(lines[2:], start=3):
        name, *values = line.split()
        if len(values) != len(CELEBA_ATTRIBUTES) or not set(values) <= {"1", "-1"}:
            raise DataError(f"{file}, line {number}: expected a file name and 40 values of 1 or -1")
        names.append(name)
        rows.append([value == "1" for value in values])
    if lines[0].strip() != str(len(rows)):
        raise DataError(f"{file}: {len(rows)} images, but its first line says {lines[0].strip()}")
    return names, np.array(rows)


def read_partition(file: Path, names: list[str]) -> np.ndarray:
    """(n,) split of each image, 0, 1 or 2 (train, val, test), from list_eval_partition.txt.

    Raises:
        DataError: a line is malformed, or an image has no split.
    """
    found: dict[str, int] = {}
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        parts = line.split()
        if len(parts) != 2 or parts[1] not in ("0", "1", "2"):
            raise DataError(f"{file}, line {number}: expected a file name and 0, 1 or 2")
        found[parts[0]] = int(parts[1])
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{file}: {len(missing)} images have no split, the first is {missing[0]}")
    return np.array([found[name] for name in names])


def image_reader(root: Path) -> Callable[[str], bytes]:
    """A function from image name to its bytes, from img_align_celeba/ or .zip in ``root`` or a folder of it.

    Raises:
        DataError: neither is there.
    """
    for folder in (root, *sorted(path for path in root.glob("*") if path.is_dir())):
        images = folder / "img_align_celeba"
        if images.is_dir():
            return lambda name: (images / name).read_bytes()
        archive = folder / "img_align_celeba.zip"
        if archive.is_file():
            opened = zipfile.ZipFile(archive)
            return lambda name: opened.read(f"img_align_celeba/{name}")
    raise DataError(f"img_align_celeba.zip (or the folder img_align_celeba) not found in {root}; {_WHERE}")


def decode(read: Callable[[str], bytes], name: str, size: int) -> np.ndarray:
    """One image as (3, size, size) uint8; the whole 178 x 218 picture is resized (bilinear), nothing is cropped.

    Raises:
        DataError: the image is missing or cannot be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(read(name))) as image:
            small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except (KeyError, FileNotFoundError) as error:
        raise DataError(f"CelebA image {name} is missing") from error
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"CelebA image {name} is corrupt: {error}") from error
    return np.asarray(small).transpose(2, 0, 1)


def save_images(names: list[str], read: Callable[[str], bytes], size: int, target: Path) -> None:
    """Decode all images in parallel into one .npy file (n, 3, size, size) uint8."""
    store = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(len(names), 3, size, size))
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), 1024):
            part = names[start : start + 1024]
            store[start : start + len(part)] = list(pool.map(lambda name: decode(read, name, size), part))
    store.flush()


class _Faces(Dataset):
    """Whole batches: an item is a list of indices."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        order = np.sort(np.asarray(chosen))  # sorted: the file is read forwards
        images = torch.from_numpy(np.ascontiguousarray(self.images[order])).float() / 255
        return images, torch.from_numpy(self.labels[order]).float()


class CelebA(LightningDataModule):
    """CelebA by its official partition; images are decoded once into ``root/processed``.

    Args:
        root: it, or a folder in it, holds list_attr_celeba.txt, list_eval_partition.txt and img_align_celeba(.zip).
        dataset: ``image_size`` (64), ``batch_size`` (256), ``tasks`` (how many attributes), ``workers`` (loader).
        seed: of the order.
    """

    def __init__(self, root: str | Path, dataset: dict[str, Any], seed: int = 0) -> None:
        super().__init__()
        self.root, self.seed = Path(root), seed
        self.size, self.batch_size = int(dataset["image_size"]), int(dataset["batch_size"])
        self.workers = int(dataset.get("workers", 0))
        self.tasks = len(celeba_attributes(int(dataset["tasks"])))
        if self.size < 16 or self.batch_size < 2:
            raise ValueError(f"image_size={self.size} must be at least 16 and batch_size={self.batch_size} at least 2")

    @property
    def cache(self) -> Path:
        return self.root / "processed" / f"celeba_{self.size}.npy"

    def _lists(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        try:
            attributes = raw_file(self.root, ["list_attr_celeba.txt"])
            partition = raw_file(self.root, ["list_eval_partition.txt"])
        except DataError as error:
            raise DataError(f"{error}; {_WHERE}") from error
        names, labels = read_attributes(attributes)
        return names, labels, read_partition(partition, names)

    def prepare_data(self) -> None:
        """Check the files and decode the images once.

        Raises:
            DataError: a file is missing or corrupt.
        """
        names, _, _ = self._lists()
        if not self.cache.exists():
            read = image_reader(self.root)
            cached(
                self.cache,
                make=lambda: None,
                save=lambda _, target: save_images(names, read, self.size, target),
                load=lambda path: path,
            )

    def setup(self, stage: str | None = None) -> None:
        names, labels, splits = self._lists()
        images = np.load(self.cache, mmap_mode="r")
        if len(images) != len(names):
            raise DataError(f"{self.cache} holds {len(images)} images, the list {len(names)}; delete it")
        self.faces = _Faces(images, labels[:, : self.tasks])
        self.indices = {name: np.flatnonzero(splits == k) for k, name in enumerate(SPLITS)}
        empty = [name for name, chosen in self.indices.items() if len(chosen) == 0]
        if empty:
            raise DataError(f"CelebA: no image in the split {', '.join(empty)}")

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> list[DataLoader]:
        """Validation and test set: the test F1 is read at the epoch with the best validation F1."""
        return [self._loader("val", shuffle=False), self._loader("test", shuffle=False)]

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", shuffle=False)

    def _loader(self, split: str, shuffle: bool) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = Batches(self.indices[split], self.batch_size, self.seed, shuffle, rank, world)
        return DataLoader(
            self.faces,
            sampler=sampler,
            batch_size=None,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )
