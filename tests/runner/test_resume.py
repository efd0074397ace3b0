"""A job that is killed anywhere, moved, or damaged ends with the bits of the whole run. In one process, by errors."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import toytask
from torch.utils.data import DataLoader

from decathlon.errors import ConfigError
from decathlon.runner import checkpoint
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct, execute
from decathlon.runner.job import Job

Kill = Callable[[], None]


class Killed(BaseException):
    """Stands for a kill: nothing that catches errors catches it."""


def attempt(folder: Path, *overrides: str, at: int | None = None, in_test: bool = False) -> dict[str, Any] | None:
    """Run the toy in ``folder`` from whatever state lies there; None if it was killed before step ``at``."""
    job = Job.of(compose_config(["task=toy", "trainer=cpu", *overrides, f"results_dir={folder}"]))
    job.folder.mkdir(parents=True, exist_ok=True)
    checkpoint.mend(job.folder)
    module, data = construct(job.config)
    step, test_step = module.training_step, module.test_step

    def training_step(batch: Any, batch_idx: int) -> torch.Tensor:
        if module.global_step == at:
            raise Killed
        return step(batch, batch_idx)

    def testing_step(batch: Any, batch_idx: int) -> None:
        if in_test:
            raise Killed
        test_step(batch, batch_idx)

    module.training_step, module.test_step = training_step, testing_step
    try:
        return execute(job.config, job.folder, (module, data))["metrics"]
    except Killed:
        return None


def state_of(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    """The weights of the one job below ``folder``."""
    path = next(folder.glob(f"*/*/*/*/checkpoints/{name}"))
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same(a: Path, b: Path, names: Sequence[str] = ("last.ckpt", "best.ckpt")) -> None:
    for name in names:
        one, other = state_of(a, name), state_of(b, name)
        assert all(torch.equal(one[key], other[key]) for key in one), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    metrics = attempt(folder)
    assert metrics is not None
    return folder, metrics


@pytest.mark.parametrize("every", [1, 3])
def test_kills_inside_an_epoch_change_nothing(tmp_path: Path, whole: tuple[Path, dict], every: int) -> None:
    option = f"checkpoint.every_n_steps={every}"
    for at in (2, 6, 9, 20, 31):  # an epoch has eight steps
        assert attempt(tmp_path, option, at=at) is None
    assert attempt(tmp_path, option, in_test=True) is None
    assert attempt(tmp_path, option) == whole[1]
    assert_same(tmp_path, whole[0])


def test_a_loader_that_draws_from_its_own_generator_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = toytask.ToyData._loader

    def own(self: Any, shift: int, shuffle: bool) -> DataLoader:
        plain = loader(self, shift, shuffle)
        generator = torch.Generator().manual_seed(3)
        return DataLoader(plain.dataset, batch_size=16, shuffle=shuffle, generator=generator)

    monkeypatch.setattr(toytask.ToyData, "_loader", own)
    reference = attempt(tmp_path / "whole")
    for at in (5, 12, 13, 24):
        assert attempt(tmp_path / "killed", "checkpoint.every_n_steps=2", at=at) is None
    assert attempt(tmp_path / "killed", "checkpoint.every_n_steps=2") == reference
    assert_same(tmp_path / "killed", tmp_path / "whole")


def test_data_that_draws_when_it_is_read_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = toytask.ToyData._loader

    def noisy(self: Any, shift: int, shuffle: bool) -> DataLoader:
        plain = loader(self, shift, shuffle)
        rows = [plain.dataset[i] for i in range(len(plain.dataset))]  # type: ignore[arg-type]

        class Noisy(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return len(rows)

            def __getitem__(self, i: int) -> Any:
                return rows[i][0] + 0.1 * torch.randn(4), rows[i][1]

        return DataLoader(Noisy(), batch_size=16, shuffle=shuffle)

    monkeypatch.setattr(toytask.ToyData, "_loader", noisy)
    reference = attempt(tmp_path / "whole")
    for at in (5, 12, 13, 24):
        assert attempt(tmp_path / "killed", "checkpoint.every_n_steps=2", at=at) is None
    assert attempt(tmp_path / "killed", "checkpoint.every_n_steps=2") == reference


def test_data_without_a_length_is_refused_inside_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            for _ in range(64):
                yield torch.randn(4), torch.ones(1)

    monkeypatch.setattr(toytask.ToyData, "train_dataloader", lambda self: DataLoader(Stream(), batch_size=16))
    with pytest.raises(
        ConfigError, match=r"checkpoint.every_n_steps: this task cannot resume inside an epoch \(its tr"
    ):
        attempt(tmp_path, "checkpoint.every_n_steps=2")
    reference = attempt(tmp_path / "whole")
    assert attempt(tmp_path / "killed", at=9) is None
    assert attempt(tmp_path / "killed") == reference


def test_a_mean_over_the_epoch_is_refused_inside_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = toytask.ToyModule.training_step

    def logging(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        self.log("train/mean", loss, on_step=False, on_epoch=True)
        return loss

    monkeypatch.setattr(toytask.ToyModule, "training_step", logging)
    with pytest.raises(ConfigError, match="it logs train/mean as a mean over the epoch"):
        attempt(tmp_path, "checkpoint.every_n_steps=2")


def test_a_job_that_is_moved_keeps_its_best_state(tmp_path: Path) -> None:
    slow = ("lr=0.9", "epochs=6")  # so large a step that the first epochs are the best
    reference = attempt(tmp_path / "whole", *slow)
    assert attempt(tmp_path / "here", *slow, at=41) is None
    assert state_of(tmp_path / "here", "best.ckpt")
    before = torch.load(next((tmp_path / "here").rglob("best.ckpt")), weights_only=True)["global_step"]
    assert before < 40, "the best state must not be the last, or this tests nothing"
    (tmp_path / "here").rename(tmp_path / "there")
    assert attempt(tmp_path / "there", *slow) == reference
    assert_same(tmp_path / "there", tmp_path / "whole")


def test_nothing_in_a_jobs_state_knows_where_it_is(whole: tuple[Path, dict]) -> None:
    for path in whole[0].rglob("*"):
        if path.is_file() and path.name != "config.yaml":
            assert str(whole[0]).encode() not in path.read_bytes(), path


def test_killed_between_the_last_checkpoint_and_its_note(tmp_path: Path, whole: tuple[Path, dict]) -> None:
    shutil.copytree(whole[0], tmp_path / "a")
    next((tmp_path / "a").rglob("fit.json")).unlink()
    assert attempt(tmp_path / "a") == whole[1], "what training had logged is in its last state"


def spoil(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("damaged", ["last.ckpt", "best.ckpt", "last.ckpt previous.ckpt", "last.ckpt best.ckpt"])
@pytest.mark.parametrize("ended", [False, True])
def test_damaged_states_are_set_aside(
    tmp_path: Path, whole: tuple[Path, dict], damaged: str, ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempt(tmp_path, in_test=True) is None if ended else attempt(tmp_path, at=22) is None
    folder = next(tmp_path.rglob("checkpoints"))
    names = [name for name in damaged.split() if (folder / name).exists()]
    for name in names:
        spoil(folder / name)
    said = checkpoint.mend(folder.parent)
    needed = names if not ended else [name for name in names if name == "best.ckpt"]
    for name in needed:
        assert (folder / f"{name}.broken").exists() and any(f"{name} cannot be read" in line for line in said)
    if damaged == "last.ckpt" and not ended:
        assert said[-1] == "going on from the checkpoint before it (step 8)"
    elif needed and needed != ["last.ckpt"]:
        assert "training begins anew" in said[-1]
    assert attempt(tmp_path) == whole[1]


def test_a_damaged_note_of_a_finished_training(tmp_path: Path, whole: tuple[Path, dict]) -> None:
    shutil.copytree(whole[0], tmp_path / "a")
    note = next((tmp_path / "a").rglob("fit.json"))
    note.write_text('{"metrics": {')
    assert attempt(tmp_path / "a") == whole[1]
    assert note.with_name("fit.json.broken").exists()


def test_temporaries_of_killed_attempts_go(tmp_path: Path, whole: tuple[Path, dict]) -> None:
    shutil.copytree(whole[0], tmp_path / "a")
    folder = next((tmp_path / "a").rglob("checkpoints"))
    left = [
        folder / ".last.ab12_xyz.part.ckpt",
        folder / ".last.ckpt.ab12cdef.ckpt",
        folder.parent / ".fit.a1b2c3d4.part.json",
    ]
    for path in left:
        path.touch()
    (folder / ".keep").touch()
    checkpoint.mend(folder.parent)
    assert not any(path.exists() for path in left) and (folder / ".keep").exists()
