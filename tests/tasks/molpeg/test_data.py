"""MolPeg's data module: splits, batches, determinism, caches, pretrained weights; the sizes of the published tables."""

import gzip
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml

from decathlon.cli import main
from decathlon.errors import ConfigError, DataError
from decathlon.molecules.encoders import make_encoder
from decathlon.runner import catalog
from decathlon.tasks.molpeg.data import MoleculeData

CONFIGS = catalog.CONFIGS / "datasets" / "molpeg"
TINY = {
    "name": "tiny",
    "source": {"class": "decathlon.molecules.tables.CsvSource", "files": ["tiny.csv.gz"], "labels": ["a", "b"]},
}
N = 101


def config(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A table of 101 molecules; row i is a chain of a length and label that tell i."""
    rows = [f"{'C' * (i + 1)}O,{i % 2},{'' if i % 3 else 1}" for i in range(N)]
    (tmp_path / "tiny.csv.gz").write_bytes(gzip.compress(("smiles,a,b\n" + "\n".join(rows) + "\n").encode()))
    return tmp_path


def module(root: Path, **options: Any) -> MoleculeData:
    data = MoleculeData(root, options.pop("dataset", TINY), **{"model": "fp_mlp", "batch_size": 16, **options})
    data.prepare_data()
    data.setup("fit")
    return data


def test_parts_and_their_batches(root: Path) -> None:
    data = module(root, model="gin_small")
    order = list(range(N))
    random.Random(42).shuffle(order)
    assert data.train_size == 80 and data.num_tasks == 2 and data.task_type == "classification"
    seen: dict[int, int] = {}
    for batch in data.train_dataloader():
        assert batch.y.dtype == torch.float32 and batch.index.dtype == torch.int64
        atoms = batch.node_starts.diff()
        for position, size, y in zip(batch.index.tolist(), atoms.tolist(), batch.y):
            row = order[position]
            assert size == row + 2 and y[0] == row % 2 and (y[1].isnan() if row % 3 else y[1] == 1)
            seen[position] = seen.get(position, 0) + 1
    assert seen == {position: 1 for position in range(80)}
    sizes = [size for batch in data.val_dataloader() for size in batch.node_starts.diff().tolist()]
    assert sizes == [row + 2 for row in order[80:90]]
    assert sum(len(batch) for batch in data.test_dataloader()) == 11


def test_the_order_is_a_function_of_seed_and_epoch(root: Path) -> None:
    def order(data: MoleculeData, epoch: int) -> list[int]:
        data.sampler.set_epoch(epoch)
        return torch.cat([batch.index for batch in data.train_dataloader()]).tolist()

    first, other = module(root, seed=1), module(root, seed=2)
    assert order(first, 0) == order(module(root, seed=1), 0) != order(first, 1)
    assert order(first, 0) != order(other, 0)
    assert torch.equal(first.split_.train, other.split_.train)  # the split has a seed of its own


def test_training_reads_the_selection(root: Path) -> None:
    data = module(root)
    chosen = torch.arange(33)
    data.sampler.set_selection(chosen)
    loader = data.train_dataloader()
    batches = list(loader)
    assert [len(batch) for batch in batches] == [16, 17]  # a last batch of one joins the one before it
    assert len(loader) == len(batches)
    assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == list(range(33))
    for k in (1, 2, 15, 16, 17, 18, 32, 34):
        data.sampler.set_selection(torch.arange(k))
        assert len(loader) == len(list(loader))


def test_processes_share_every_batch(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(root)
    loader = data.train_dataloader()
    alone = [batch.index for batch in loader]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        parts.append([batch.index for batch in loader])
        assert len(loader) == len(alone) == len(parts[-1])
    for whole, first, second in zip(alone, *parts, strict=True):
        assert len(first) == len(second) == 8 and sorted(torch.cat([first, second]).tolist()) == sorted(whole.tolist())


class Watcher(pl.LightningModule):
    """Notes which samples it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.index.tolist())
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/n", float(len(batch)), batch_size=len(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_lightning_reads_it_and_resumes_in_the_middle_of_an_epoch(root: Path) -> None:
    class SaveAtSeven(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 7:
                trainer.save_checkpoint(root / "middle.ckpt")

    def fit(checkpoint: Path | None, *callbacks: pl.Callback) -> list[list[int]]:
        watcher = Watcher()
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=list(callbacks),
        )
        trainer.fit(watcher, module(root, seed=3), ckpt_path=checkpoint, weights_only=True)
        return watcher.seen

    whole = fit(None, SaveAtSeven())  # 3 epochs of 5 batches
    assert len(whole) == 15 and whole[:5] != whole[5:10]
    assert sorted(i for batch in whole[:5] for i in batch) == list(range(80))
    assert fit(root / "middle.ckpt") == whole[7:]


def test_scaffold_split(root: Path) -> None:
    rows = [f"{'C' * (1 + i % 5)}C1{'C' * (2 + i // 5)}1,{i % 2},1" for i in range(60)]  # twelve sizes of rings
    (root / "tiny.csv.gz").write_bytes(gzip.compress(("smiles,a,b\n" + "\n".join(rows) + "\n").encode()))
    data = module(root, split="scaffold")
    rings = [{s[s.index("1") :] for s in part.table.smiles} for part in data.parts.values()]
    assert [len(ring) for ring in rings] == [9, 1, 2] and len(set.union(*rings)) == 12


def test_prepared_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(root, pretrain={"name": "properties", "source": "train", "epochs": 1})
    first = data.pretrained_state()
    assert first is not None
    monkeypatch.setattr("decathlon.molecules.dataset.featurise", lambda *a, **k: pytest.fail("featurised again"))
    monkeypatch.setattr("decathlon.molecules.pretraining.train.train", lambda *a, **k: pytest.fail("trained again"))
    again = module(root, pretrain={"name": "properties", "source": "train", "epochs": 1}, seed=5)
    state = again.pretrained_state()
    assert state is not None and all(torch.equal(state[name], value) for name, value in first.items())
    make_encoder("fp_mlp", again.encoder_spec()).load_state_dict(state)
    assert module(root).pretrained_state() is None


def test_fetching_trains_nothing_and_says_where_things_lie(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decathlon.molecules.pretraining.train.train", lambda *a, **k: pytest.fail("trained"))
    data = MoleculeData(root, TINY, pretrain={"name": "properties", "source": "zinc"})
    monkeypatch.setattr("decathlon.molecules.pretraining.sources.SOURCES", {"zinc": {**TINY["source"], "files": ["z"]}})
    with pytest.raises(DataError, match="z not found"):  # the source of pretraining is checked too
        data.fetch_data()
    (root / "raw").mkdir()
    (root / "tiny.csv.gz").rename(root / "raw" / "tiny.csv.gz")
    data = MoleculeData(root, TINY, pretrain={"name": "properties", "source": "train"})
    assert data.fetch_data() == [root / "raw", root / "processed"] and len(data.parts) == 3


def test_the_command_that_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("decathlon.molecules.pretraining.train.train", lambda *a, **k: pytest.fail("trained"))
    monkeypatch.setattr("decathlon.runner.execute.quiet", lambda: None)  # it sets this process's logging up for good
    monkeypatch.setenv("DECATHLON_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir(mode=0o555)
    main(["data", "chembl_alerts", f"data_dir={tmp_path / 'data'}", "data.max_molecules=100"])
    assert f"chembl_alerts is ready in {tmp_path / 'cache'}\n" in capsys.readouterr().out
    assert list((tmp_path / "cache").iterdir()) and not list((tmp_path / "data").iterdir())


def test_a_checkpoint_as_pretraining(root: Path) -> None:
    encoder = make_encoder("gin_small", {"inputs": "graph"})
    torch.save(encoder.state_dict(), root / "w.pt")
    state = module(root, model="gin_small", pretrain=str(root / "w.pt")).pretrained_state()
    assert state is not None and torch.equal(state["element.weight"], encoder.state_dict()["element.weight"])
    with pytest.raises(DataError, match="another encoder"):
        module(root, model={"name": "gin_small", "width": 32}, pretrain=str(root / "w.pt"))


def test_an_overwritten_checkpoint_is_another_one(root: Path) -> None:
    """Scores of static methods are cached by what ``identity`` says."""
    encoder = make_encoder("gin_small", {"inputs": "graph"})

    def identity(path: Path) -> dict[str, Any]:
        return module(root, model="gin_small", pretrain=str(path)).identity()

    torch.save(encoder.state_dict(), root / "w.pt")
    first = identity(root / "w.pt")
    (root / "copy.pt").write_bytes((root / "w.pt").read_bytes())
    assert identity(root / "w.pt") == identity(root / "copy.pt") == first
    torch.save({name: value + 1 for name, value in encoder.state_dict().items()}, root / "w.pt")
    assert identity(root / "w.pt") != first


def test_what_the_scores_need(root: Path) -> None:
    data = module(root, model="gin_small")
    bits = data.fingerprints()
    assert bits is not None and bits.shape == (80, 1024) and bits.dtype == torch.uint8
    assert torch.equal(bits.float(), module(root).parts["train"].batch(torch.arange(80)).fingerprints)
    assert data.identity() == module(root, model="gin_small").identity() != module(root).identity()
    assert data.identity() != module(root, model="gin_small", split_seed=1).identity()
    assert data.cache_dir.parent == root / "processed"


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_labels_that_change_places_are_other_data(root: Path, part: str) -> None:
    """Scores of static methods are cached by ``identity``: sums of labels and lists of names would not tell."""
    data = module(root)
    before = data.identity()
    y = data.parts[part].table.y
    first, other = (int((y[:, 0] == label).nonzero()[0]) for label in (0, 1))
    y[[first, other]] = y[[other, first]]
    assert data.identity() != before


def test_sizes_of_the_users_own_split(root: Path) -> None:
    assert [len(part) for part in module(root, dataset={**TINY, "split_sizes": [70, 20]}).split_] == [70, 20, 11]
    with pytest.raises(ConfigError, match=r"split_sizes=\[90, 20\] leave none of 101 molecules"):
        module(root, dataset={**TINY, "split_sizes": [90, 20]})


def test_a_part_of_one_class_is_said_as_it_is(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write(label: Any) -> None:
        rows = "".join(f"{'C' * (i + 1)},{label(i)},\n" for i in range(N))
        (root / "tiny.csv.gz").write_bytes(gzip.compress(f"smiles,a,b\n{rows}".encode()))

    write(lambda i: 0)
    with pytest.raises(DataError, match=r"tiny: in the 80 molecules of the train part all known labels are 0"):
        module(root)
    order = list(range(N))
    random.Random(42).shuffle(order)
    write(lambda i: int(i in order[:40]))  # positives in the training part only
    with pytest.raises(DataError, match=r"in the 10 molecules of the val part all known labels are 0"):
        module(root)
    write(lambda i: 0)
    with caplog.at_level("WARNING"):  # a sliver of the data may be so: a smoke run of rare positives
        module(root, max_molecules=100)
    assert "its metrics are undefined" in caplog.text


def test_a_scaffold_split_of_chains_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"101 of 101 molecules have no ring, .* use split=random"):
        module(root, split="scaffold")


def test_regression(root: Path) -> None:
    rows = "".join(f"{'C' * (i + 1)},{i}\n" for i in range(50))
    (root / "e.csv").write_text("smiles,e\n" + rows)
    source = {**TINY["source"], "files": ["e.csv"], "labels": ["e"], "task_type": "regression"}  # type: ignore[dict-item]
    data = module(root, dataset={"name": "e", "source": source})
    y = data.parts["train"].table.y[:, 0]
    assert data.task_type == "regression"
    torch.testing.assert_close(data.target_mean, y.mean()[None])
    torch.testing.assert_close(data.target_std, y.std(correction=0)[None])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"split": "butina"}, "choose random or scaffold"),
        ({"batch_size": 1}, "batch_size"),
        ({"model": "mlp"}, "choose gin"),
        ({"pretrain": "graphmae"}, "for graph encoders"),
        ({"max_molecules": 3}, "max_molecules"),
        ({"dataset": {"name": "x"}}, "no source"),
        ({"model": "painn", "split": "scaffold"}, "scaffold"),
    ],
)
def test_bad_options_are_named_before_any_work(root: Path, options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        MoleculeData(root, **{"dataset": TINY, **options})
    assert not (root / "processed").exists()


def test_the_example_of_the_docs_reads_a_users_table(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/molecules.md").read_text()
    spec = yaml.safe_load(page.partition("## Your own table")[2].partition("```yaml\n")[2].partition("```")[0])
    rows = "".join(f"{'C' * (i + 1)};{1 if i % 3 else -1};Grün;\n" for i in range(60))
    (tmp_path / "mine.csv").write_bytes(f"SMILES;active;name;\n{rows}".encode("latin-1"))
    data = module(tmp_path, dataset=spec, model=spec["model"], pretrain=spec["pretrain"])
    assert data.train_size == 48 and data.report["malformed"] == 0
    assert torch.cat([part.table.y for part in data.parts.values()]).sum() == 40


def test_too_few_molecules(root: Path) -> None:
    (root / "tiny.csv.gz").write_bytes(gzip.compress(b"smiles,a,b\nC,1,0\nCC,0,1\nCCC,1,1\n"))
    with pytest.raises(DataError, match="too few"):
        module(root)


def test_the_embedded_dataset_in_small(embedded_data: Path) -> None:
    data = module(embedded_data, dataset=config("chembl_alerts"), max_molecules=200, pretrain="properties")
    assert data.train_size == 160 and data.num_tasks == 1 and data.pretrained_state() is not None


OWN = {"csv", "_csv_keys"}  # a user's own table has a file: tests/test_own_data.py


@pytest.mark.parametrize("name", sorted({path.stem for path in CONFIGS.glob("*.yaml")} - OWN))
def test_every_dataset_config(name: str, tmp_path: Path) -> None:
    spec = config(name)
    assert spec["name"] == name and isinstance(spec["embedded"], bool) and spec["title"]
    MoleculeData(tmp_path, spec, spec["model"], spec["pretrain"], spec["batch_size"])
    assert spec["metric"] in ("roc_auc", "average_precision", "mae") and spec["epochs"] > 0 and spec["lr"] > 0


TABLES = {
    "hiv": (41_127, 1, 1_443),
    "muv": (93_087, 17, 489),
    "bace": (1_513, 1, None),
    "bbbp": (2_050, 1, None),
    "tox21": (7_831, 12, None),
    "clintox": (1_481, 2, None),  # three rows of 1,484 cannot be read even without the valence check
    "sider": (1_427, 27, None),
}


@pytest.mark.data
@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_moleculenet(
    name: str, data_root: Path | None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DECATHLON_CACHE", str(tmp_path_factory.mktemp("cache")))
    spec = config(name)
    if data_root is None or not any(list(data_root.glob(f"*/{file}")) for file in spec["source"]["files"]):
        pytest.skip(f"needs the table of {name}")
    molecules, tasks, positives = TABLES[name]
    limit = 2_000 if name == "muv" else None  # its featurisation takes longer than a test may
    data = module(data_root, dataset=spec, max_molecules=limit)
    assert data.num_tasks == tasks and data.report["rows"] == spec["source"]["rows"]
    whole = data.source.table(data_root)
    if positives is not None:
        assert int((whole.y == 1).sum()) == positives
    if limit is None:
        assert sum(map(len, data.split_)) == molecules
    if name == "hiv":
        assert [len(part) for part in data.split_] == [32_901, 4_112, 4_114]
        assert data.report["without_valence_check"] == 7 and data.report["unreadable"] == 0
