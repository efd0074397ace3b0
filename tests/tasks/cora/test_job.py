"""Jobs on a tiny decoder: frozen states, two-stage baselines, the control, kill and resume in the test, bad options."""

from pathlib import Path
from typing import Any

import pytest
import torch

from decathlon.errors import ConfigError
from decathlon.language.fingerprint import fingerprint
from decathlon.language.prefix import block_input
from decathlon.rows import read_rows
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct, execute
from decathlon.runner.job import Job
from decathlon.tasks.cora import CoRA
from decathlon.tasks.cora.decoder import answer_logits, last_hidden, load_model
from decathlon.tasks.cora.module import Recommender
from decathlon.tasks.cora.prompts import answers

FAST = [
    "task=cora", "trainer=cpu", "figures=false", "dataset.decoder.steps=2", "dataset.options.people=60",
    "dataset.options.films=40", "dataset.options.rows=10", "train_rows=64", "valid_rows=40", "iterations=2", "epochs=2",
    "batch_size=8", "warmup=0", "dataset.collaborative.mf.epochs=2", "dataset.collaborative.binary.epochs=2",
    "max_tokens=700", "rank=4",
]  # fmt: skip


def job(root: Path, data: Path, *overrides: str) -> tuple[Any, Path, Recommender]:
    config = compose_config([*FAST, *overrides, f"data_dir={data}", f"results_dir={root}"])
    made = Job.of(config)
    made.folder.mkdir(parents=True, exist_ok=True)
    module, source = construct(made.config)
    return execute(made.config, made.folder, (module, source))["metrics"], made.folder, module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def test_kept_states_change_nothing(tmp_path: Path, data: Path) -> None:
    kept, _, module = job(tmp_path / "a", data)
    whole, *_ = job(tmp_path / "b", data, "cache_dtype=null")
    assert module.frozen is not None and len(list((data / "processed").glob("cora-frozen-*.pt"))) == 1
    for name in ("test/auc", "test/uauc", "val/auc"):
        assert whole[name] == pytest.approx(kept[name], abs=2e-2), name
    llm, tokens = module.data.llm, module.data.answers
    places = module.data.places["test"][:3]
    batch = module.data.batch(places, "text", torch.device("cpu"), module.frozen)
    with torch.no_grad():
        torch.testing.assert_close(
            batch.hidden[0, : batch.lengths[0]], block_input(llm, 1, batch.ids)[0, : batch.lengths[0]]
        )
        two = answer_logits(llm, last_hidden(llm, batch.ids, batch.lengths), tokens)
        torch.testing.assert_close(two, module.frozen.answers[places], atol=1e-5, rtol=1e-5)
        full = llm(batch.ids).logits[torch.arange(3), batch.lengths - 1]
        torch.testing.assert_close(two, full[:, list(tokens)], atol=1e-5, rtol=1e-5)


def test_the_frozen_model_and_the_start_of_cora_are_one(tmp_path: Path, data: Path) -> None:
    frozen, *_ = job(tmp_path / "a", data, "method=icl")
    start, _, module = job(tmp_path / "b", data, "lr=1e-30", "weight_decay=0")
    assert start["test/auc"] == pytest.approx(frozen["test/auc"], abs=1e-6)
    assert frozen["test/auc"] == start["test/frozen_auc"]
    assert module.adapter.cora.outputs["q_2"].abs().max() < 1e-20


def test_only_the_adapter_is_trained_and_kept(tmp_path: Path, data: Path) -> None:
    before = fingerprint(load_model("catalogue", data, training={"steps": 2})[0])
    _, folder, module = job(tmp_path, data, "method=collm_mf")
    assert fingerprint(module.data.llm) == before
    assert all(p.grad is None and not p.requires_grad for p in module.data.llm.parameters())
    assert all(p.grad is None for p in module.data.models["mf"].parameters())
    saved = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert set(saved) == {f"adapter.{name}" for name, _ in module.adapter.named_parameters()}


def test_what_was_trained_serves_without_the_runner(tmp_path: Path, data: Path) -> None:
    metrics, folder, module = job(tmp_path, data, "lr=1e-2")
    assert metrics["test/general_after"] == metrics["test/general_before"]  # no pair, no change
    state = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    llm, tokenizer = load_model("catalogue", data, training={"steps": 2})
    cora = CoRA(llm, 32, 32, rank=4, blocks=2, queries=4, layers=2, heads=8, inner=256).eval()
    cora.load_state_dict({name.removeprefix("adapter.cora."): value for name, value in state.items()})
    row = read_rows(folder)[0]
    place = torch.tensor([module.data.rows.tolist().index(int(row["id"]))])
    batch = module.data.batch(place, "text", torch.device("cpu"), None)
    with cora.personalised(*batch.vectors), torch.no_grad():
        logits = llm(batch.ids).logits[0, -1]
    yes, no = answers(tokenizer)
    assert float(logits[yes] - logits[no]) == pytest.approx(row["score"], abs=1e-4)


def test_static_lora_stays_in_the_model(tmp_path: Path, data: Path) -> None:
    metrics, *_ = job(tmp_path, data, "method=tallrec", "lr=1e-2")
    assert metrics["test/general_after"] != metrics["test/general_before"]


def test_own_files_run(tmp_path: Path, data: Path) -> None:
    from tests.tasks.cora.test_data import OWN, TITLES

    (tmp_path / "mine.csv").write_text(OWN)
    (tmp_path / "titles.csv").write_text(TITLES)
    files = [
        f"interactions={tmp_path / 'mine.csv'}",
        f"items={tmp_path / 'titles.csv'}",
        "dataset.options.plural=books",
    ]
    own = [one for one in FAST if "options" not in one and "decoder" not in one]
    own += ["dataset=csv", "model=catalogue", "decoder={steps: 2}", "dataset.collaborative.mf.size=16", *files]
    config = compose_config([*own, f"data_dir={data}", f"results_dir={tmp_path}"])
    made = Job.of(config)
    made.folder.mkdir(parents=True)
    metrics = execute(made.config, made.folder, construct(made.config))["metrics"]
    assert 0 <= metrics["test/auc"] <= 1 and metrics["test/rows"] == 12


def test_stages_train_one_after_the_other(tmp_path: Path, data: Path) -> None:
    _, _, module = job(tmp_path, data, "method=collm_mf", "epochs=4")
    assert module.bounds == [(0, 4), (4, 8)] and [module.stage_at(step) for step in (0, 3, 4, 7)] == [0, 0, 1, 1]
    groups = module.configure_optimizers()
    factors = groups["lr_scheduler"]["scheduler"].lr_lambdas
    assert all(factor(4) == pytest.approx(1.0) for factor in factors)
    assert module.prompt_at(0) == "text" and module.prompt_at(5) == "identity"


def test_the_published_warm_up_saws(tmp_path: Path, data: Path) -> None:
    module, _ = construct(
        Job.of(
            compose_config([*FAST, "iterations=100", "epochs=10", "warmup=200", "restarts=true", f"data_dir={data}"])
        ).config
    )
    factor = module._factor(1.0)
    rates = [1e-3 * factor(step) for step in (0, 50, 99, 100, 199, 200)]
    assert rates == pytest.approx([1e-5, 2.6e-4, 5e-4, 1e-5, 5e-4, 1e-3], rel=0.02)
    honest = construct(Job.of(compose_config([*FAST, "iterations=100", "warmup=200", "epochs=10"])).config)[0]._factor(
        1.0
    )
    assert honest(99) == pytest.approx(0.5) and honest(200) == pytest.approx(1.0, abs=1e-3)


def test_permuted_rows_get_other_pairs(tmp_path: Path, data: Path) -> None:
    _, _, module = job(tmp_path, data, "method=cora_permuted")
    given = module.data
    assert (given.sources != given.rows).float().mean() > 0.9
    for places in given.places.values():
        assert torch.equal(given.sources[places].sort().values, given.rows[places].sort().values)


def test_a_killed_test_goes_on_to_the_same_bits(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, folder, _ = job(tmp_path / "whole", data)
    real = Recommender.test_step

    def killed(self: Recommender, places: torch.Tensor, batch_idx: int) -> None:
        if batch_idx == 2:
            raise KeyboardInterrupt
        real(self, places, batch_idx)

    monkeypatch.setattr(Recommender, "test_step", killed)
    with pytest.raises(BaseException):  # noqa: B017
        job(tmp_path / "cut", data)
    monkeypatch.setattr(Recommender, "test_step", real)
    rows = next((tmp_path / "cut").rglob("cases-0.jsonl"))
    with open(rows, "a") as file:
        file.write('{"id": "half a l')
    resumed, again, _ = job(tmp_path / "cut", data)
    same = {name: value for name, value in whole.items() if "seconds" not in name}
    assert {name: resumed[name] for name in same} == same
    lines = [sorted((path / "cases-0.jsonl").read_text().splitlines()) for path in (folder, again)]
    assert lines[0] == lines[1]


ADDED = ["dataset.collaborative.mf.width=3", "method.strength=3"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rank=0", "rank=0 must be at least 1"),
        ("generator=gru", "generator=gru is unknown"),
        ("heads=7", "no multiple of heads=7"),
        ("score=no", "score=no is unknown; choose yes or yes_minus_no"),
        ("lr=0", "lr=0"),
        ("history=0", "history=0"),
        ("train_rows=0", "train_rows=0"),
        ("warmup=4", "warmup=4 must be from 0 to steps - 1"),
        ("dataset.source=x", "dataset.source=x is unknown; choose catalogue"),
        ("dataset.collaborative.mf.lr=-1", "lr=-1"),
        ("dataset.collaborative.mf.width=3", "collaborative=mf has no option width"),
        ("dataset.decoder.steps=0", "steps=0 of the decoder"),
        ("method.strength=3", "method=cora_mf has no option strength"),
    ],
)
def test_bad_options_end_in_one_line(override: str, message: str, data: Path) -> None:
    given = f"+{override}" if override in ADDED else override
    with pytest.raises(ConfigError, match=message) as caught:
        construct(Job.of(compose_config([*FAST, given])).config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["blocks=9", "modules=[query]"])
def test_what_only_the_model_can_refuse(override: str, tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match="on model=catalogue: "):
        job(tmp_path, data, override)
