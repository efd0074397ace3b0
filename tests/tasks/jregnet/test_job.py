"""The Lightning pair and its configs: jobs end to end, resume to the last bit, one-line errors."""

import copy
import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf

from decathlon.errors import ConfigError, DataError
from decathlon.randomness import generator
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct, execute
from decathlon.runner.job import Job
from decathlon.tasks.jregnet import audit, load
from decathlon.tasks.jregnet.data import JointAuctionData
from decathlon.tasks.jregnet.module import JointAuctionModule, expected_leak
from decathlon.tasks.jregnet.reports import Record
from tests.conftest import script
from tests.tasks.jregnet.markets import S1

SMALL = [
    "val_profiles=16",
    "test_profiles=32",
    "regret_profiles=8",
    "grid=5",
    "batch_size=8",
    "chunk=3",
    "evaluations=2",
    "figures=false",
]


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    """The task's default config, not resolved."""
    return compose_config(["task=jregnet"])


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def job(folder: Path, *overrides: str) -> Job:
    made = Job.of(compose_config(["task=jregnet", "trainer=cpu", f"results_dir={folder}", *SMALL, *overrides]))
    made.folder.mkdir(parents=True)
    return made


def test_a_stacked_job_writes_means_deviations_and_rows(tmp_path: Path) -> None:
    made = job(tmp_path, "iterations=12", "seeds_per_job=3", "seed=1", "figures=true")
    metrics = execute(made.config, made.folder)["metrics"]
    rows = read(made.folder / "seeds.csv")
    assert [row["seed"] for row in rows] == ["3", "4", "5"]
    for name in ("revenue", "regret", "virtual_welfare", "opt", "rvcg"):
        column = torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)
        assert metrics[f"test/{name}"] == pytest.approx(float(column.mean()), rel=1e-5)
        assert metrics[f"test/{name}_std"] == pytest.approx(float(column.std()), rel=1e-3)
    bidders = read(made.folder / "bidders.csv")
    assert len(bidders) == 12 and {row["side"] for row in bidders} == {"store", "brand"}
    assert (made.folder / "curves.png").stat().st_size > 1000 < (made.folder / "allocation.png").stat().st_size
    wanted = "revenue regret regret_sum regret_max welfare virtual_welfare opt rvcg store_opt gap alloc_gap ic_excess"
    assert all(f"test/{name}" in metrics for name in (*wanted.split(), "ir_violation", "revenue_over_rvcg"))


def test_a_trained_mechanism_is_loaded_without_the_runner(tmp_path: Path) -> None:
    """The selected state of each stacked seed, in the market's own money; what it earns is what the record says."""
    made = job(tmp_path, "iterations=6", "seeds_per_job=2", "distribution={kind: uniform, high: 500}")
    made.write_config()
    metrics = execute(made.config, made.folder)["metrics"]
    trained = load(made.folder)
    assert trained.seeds == [0, 1] and trained.auction.bundles == S1.bundles
    revenues = []
    for seed, mechanism in zip(trained.seeds, trained.mechanisms):
        values = trained.prior.sample(32, generator("test", seed), torch.float32)
        revenues.append(audit(mechanism, trained.auction, values, trained.prior, regret_profiles=8, points=5).revenue)
    assert sum(revenues) / 2 == pytest.approx(metrics["test/revenue"], rel=1e-6)
    assert metrics["test/collapsed"] in (0.0, 0.5, 1.0)
    with pytest.raises(DataError, match="no folder of a job that was trained"):
        load(tmp_path / "nowhere")


def test_stores_alone_are_judged_against_the_joint_optimum(tmp_path: Path) -> None:
    alone, joint = (
        execute(made.config, made.folder)["metrics"]
        for made in (
            job(tmp_path, "method=store_opt", "test_profiles=4000"),
            job(tmp_path, "method=opt", "test_profiles=4000"),
        )
    )
    assert alone["test/opt"] == pytest.approx(joint["test/opt"])
    assert alone["test/virtual_welfare"] == pytest.approx(alone["test/store_opt"], rel=1e-6)
    assert alone["test/gap"] == pytest.approx(alone["test/revenue"] / joint["test/opt"] - 1)
    assert joint["test/alloc_gap"] == pytest.approx(0, abs=1e-9)


def state(module: JointAuctionModule) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("method", ["jregnet", "jregnet_paper"])
def test_resumed_is_uninterrupted(method: str, tmp_path: Path) -> None:
    """Weights, misreport cache, multipliers, rho, and the metrics after them, to the last bit."""
    extra = ["iterations=12", f"method={method}", "training_profiles=64"]
    if method == "jregnet_paper":
        extra += ["method.lagrangian.update_every=2", "method.lagrangian.rho_every=3", "method.search.steps=2"]
    config = job(tmp_path, *extra).config
    options: dict[str, Any] = {
        "max_epochs": 4, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip

    def fit(epochs: int, resume: Path | None = None) -> tuple[JointAuctionModule, Trainer]:
        module, data = construct(config)
        assert isinstance(module, JointAuctionModule) and isinstance(data, JointAuctionData)
        trainer = Trainer(**{**options, "max_epochs": epochs}, default_root_dir=tmp_path, enable_checkpointing=False)
        trainer.fit(module, data, ckpt_path=resume, weights_only=True if resume else None)
        return module, trainer

    whole, _ = fit(2)
    _, half = fit(1)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(2, tmp_path / "half.ckpt")
    assert int(whole.iteration) == int(resumed.iteration) == 12
    first, second = state(whole), state(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert ("method.cache" in first) == (method == "jregnet_paper")
    assert whole.curve == resumed.curve and len(whole.curve) == 2
    batch = whole.profiles.batch(20)  # type: ignore[union-attr]
    assert torch.equal(whole.method.losses(batch, 0.5)[0], resumed.method.losses(batch, 0.5)[0])


def test_threads_are_put_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        made = job(tmp_path, "iterations=2", "threads=2")  # the runner sets two, training uses one for itself
        execute(made.config, made.folder)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_log_as_a_job(tmp_path: Path) -> None:
    from tests.tasks.jregnet.test_logs import generated, write

    write(tmp_path, generated(60, drop=True))
    made = job(
        tmp_path, "dataset=csv", f"dataset.values={tmp_path}/values.csv", f"dataset.edges={tmp_path}/edges.csv",
        "iterations=4", "dataset.independent=true",
    )  # fmt: skip
    metrics = execute(made.config, made.folder)["metrics"]
    assert metrics["test/opt"] > 1  # in the log's own units, not in those of the network
    assert 0 < metrics["test/best_welfare"] < 150
    names = {row["bidder"] for row in read(made.folder / "bidders.csv")}
    assert names == {"mart", "shop", "cola", "tea"}


@pytest.mark.parametrize("method", ["store_opt", "regretnet_store", "opt"])
def test_an_undeclared_log_has_no_bound(method: str, tmp_path: Path) -> None:
    """The stores alone are no more independent than all bidders."""
    from tests.tasks.jregnet.test_logs import generated, write

    write(tmp_path, generated(60))
    log = ["dataset=csv", f"dataset.values={tmp_path}/values.csv", f"dataset.edges={tmp_path}/edges.csv"]
    training = ["iterations=4"] if method == "regretnet_store" else []
    made = job(tmp_path, *log, f"method={method}", *training, "dataset.independent=false")
    metrics = execute(made.config, made.folder)["metrics"]
    assert metrics["test/revenue"] > 0
    for name in ("opt", "opt_upper", "gap", "alloc_gap", "virtual_welfare", "ic_excess", "store_opt"):
        assert metrics[f"test/{name}"] is None, name


def test_correlated_values_have_no_bound(tmp_path: Path) -> None:
    made = job(tmp_path, "method=opt", "distribution=correlated")
    metrics = execute(made.config, made.folder)["metrics"]
    assert metrics["test/opt"] is None and metrics["test/gap"] is None and metrics["test/revenue"] > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("click_rates=[0.5,0.7]", "must be sorted down"),
        ("click_rates=[]", "K = 0"),
        ("dataset.graph=[[0,7]]", "there is no brand 7"),
        ("distribution=zipf", "choose uniform"),
        ("method.search.kind=random", "choose local or ascent"),
        ("method.network.activation=sine", "choose silu"),
        ("batch_size=0", "batch_size=0"),
        ("seeds_per_job=0", "seeds_per_job=0"),
        ("grid=1", "at least 2 points"),
        ("lr=0", "must be positive"),
        ("selection=best", "choose audited or revenue"),
        ("method.deviators=0", "at least 1, or null"),
        ("method.search.step=3", "search.kind=local has no option step; choose offsets"),
        ("method.lagrangian.rho=1", "lagrangian.kind=ramp has no option rho; choose start"),
        ("method.network.widths=3", "network has no option widths; choose width"),
        ("method.color=red", "method=jregnet has no option color"),
        ("distribution={kind: normal, sd: 1}", "distribution=normal has no option sd; choose mean, std"),
        ("distribution={kind: uniform, high: -1}", "distribution=uniform: a uniform distribution needs"),
    ],
)
def test_bad_values_end_in_one_line(override: str, message: str, composed: DictConfig, tmp_path: Path) -> None:
    cfg = copy.deepcopy(composed)
    key, _, value = override.partition("=")
    OmegaConf.update(cfg, key, yaml.safe_load(value), force_add=True)
    with pytest.raises(ConfigError, match=message) as caught:
        construct(Job.of(cfg).config)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_figures_keep_markets_apart(tmp_path: Path) -> None:
    """Seeds are averaged; distributions, click rates, numbers of bundles and sizes of a dataset are not."""
    markets: list[dict[str, Any]] = [
        {}, {"seed": 1}, {"bundles": 8}, {"distribution": "normal"}, {"click_rates": [0.5, 0.3, 0.1]},
        {"distribution": {"kind": "exponential", "rate": 1}}, {"dataset.size": 2}, {"dataset.size": 3},
    ]  # fmt: skip
    cfgs = {name: compose_config(["task=jregnet", "method=opt", f"dataset={name}"]) for name in ("G", "one_slot")}
    for number, market in enumerate(markets):
        cfg = copy.deepcopy(cfgs["one_slot" if "dataset.size" in market else "G"])
        for key, value in market.items():
            OmegaConf.update(cfg, key, value, force_add=True)
        config = Job.of(cfg).config
        metrics = {name: float(number) for name in ("test/revenue", "test/virtual_welfare", "test/opt", "test/regret")}
        folder = tmp_path / "jobs" / str(number)
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"config": config, "metrics": metrics}))
    figures = script("analysis/jregnet_figures.py")
    rows = figures.read_jobs(tmp_path / "jobs")
    labels = [
        "G", "G, bundles 8", "G, normal", "G, [0.5, 0.3, 0.1]", 'G, {"kind": "exponential", "rate": 1}',
        "one_slot, size 2", "one_slot, size 3",
    ]  # fmt: skip
    assert [row["dataset"] for row in rows] == labels
    assert [row["test/revenue"] for row in rows] == [0.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    figures.main([str(tmp_path / "jobs"), str(tmp_path / "out")])
    assert (tmp_path / "out" / "audit.png").stat().st_size > 1000 < (tmp_path / "out" / "frontier.png").stat().st_size


@pytest.mark.parametrize(("experiment", "ceiling"), [("small", 3e-4), ("table1", 9e-4), ("follow_up_five", 9e-4)])
def test_published_layouts_select_as_published(experiment: str, ceiling: float) -> None:
    config = compose_config([f"experiment=jregnet/{experiment}"])
    assert config.regret_ceiling == ceiling
    assert config.selection == ("audited" if experiment == "small" else "revenue")


def test_an_audited_selection_takes_off_the_expected_leak() -> None:
    """Measured in S1: a sum of regrets of 0.013 came with 0.12 of fake revenue."""
    assert expected_leak(0.013, 0.5, S1) == pytest.approx(0.125, abs=1e-3)
    assert expected_leak(0.0, 0.5, S1) == 0
    half = S1.with_click_rates([0.5, 0.25])
    assert expected_leak(0.5 * 0.013, 0.5, half) == pytest.approx(
        0.5 * expected_leak(0.013, 0.5, S1)
    )  # scales with money


@pytest.mark.parametrize(("selection", "score"), [("audited", 0.5 - 0.022), ("revenue", 0.5)])
def test_selection_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selection: str, score: float) -> None:
    module, _ = construct(job(tmp_path, f"selection={selection}").config)
    assert isinstance(module, JointAuctionModule)
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    logged: dict[str, float] = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: float(value)}))
    metrics = {"revenue": 0.5, "regret": 1e-4, "expected_leak": 0.022}
    for regret, expected in ((1e-4, score), (1e-2, -1e-2)):  # the second is not nearly truthful
        module._records = [Record(0, {**metrics, "regret": regret}, [])]
        module.on_validation_epoch_end()
        assert logged["val/selection"] == pytest.approx(expected)
