"""Configs that share a base, and what the catalog reads of them."""

from pathlib import Path

import pytest

from decathlon.errors import ConfigError
from decathlon.runner import catalog
from decathlon.runner.compose import compose_config
from decathlon.runner.job import Job


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user's own configs: one more dataset and two more methods of the toy, with bases."""
    files = {
        "datasets/toy/_points.yaml": "embedded: true\nmethods: [linear]\nn: 64\nepochs: 2\nbroken: false\n"
        "more: {a: 1, b: 2}",
        "datasets/toy/few.yaml": "defaults: [_points]\nname: few\ntitle: Few points\nn: 32\nmore: {b: 3}",
        "methods/toy/_all.yaml": "defaults: [_root]\nignores: [lr]\ndepth: 1",
        "methods/toy/_root.yaml": "title: of the root\ndepth: 0\nlate: 0",
        "methods/toy/deep.yaml": "defaults: [_all, _self_]\nname: deep\ndepth: 2",
        "methods/toy/flat.yaml": "defaults: [_self_, _all]\nname: flat\ndepth: 2\nlate: 5",
        "experiment/toy/_base.yaml": "# @package _global_\ntable: {title: none}",
    }
    for name, text in files.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("DECATHLON_CONFIGS", f"{Path(__file__).parents[1] / 'toy' / 'configs'}:{tmp_path / 'mine'}")
    return tmp_path / "mine"


def test_bases_are_no_options(configs: Path) -> None:
    assert catalog.datasets("toy") == ["broken", "few", "points"]
    assert catalog.methods("toy") == ["crash", "deep", "fixed", "flat", "linear"]
    assert catalog.experiments("toy") == ["toy/small", "toy/tuned"]
    with pytest.raises(Exception, match="_points"):
        compose_config(["task=toy", "dataset=_points"])


@pytest.mark.parametrize(("group", "name"), [("dataset", "few"), ("method", "deep"), ("method", "flat")])
def test_the_catalog_reads_what_hydra_composes(configs: Path, group: str, name: str) -> None:
    job = Job.of(compose_config(["task=toy", f"{group}={name}"]))
    assert catalog.read(f"{catalog.PER_TASK[group]}/toy/{name}") == job.config[group]


def test_what_the_base_says_counts(configs: Path) -> None:
    few = catalog.read("datasets/toy/few")
    assert few["embedded"] and few["methods"] == ["linear"] and few["more"] == {"a": 1, "b": 3} and few["n"] == 32
    assert catalog.read("methods/toy/deep") | {"title": 0} == {
        "name": "deep", "title": 0, "ignores": ["lr"], "depth": 2, "late": 0,
    }  # fmt: skip
    assert catalog.read("methods/toy/flat")["depth"] == 1, "what stands after _self_ wins"
    assert Job.of(compose_config(["task=toy", "method=deep", "lr=0.1"])).identity == (
        Job.of(compose_config(["task=toy", "method=deep"])).identity
    ), "a knob that the base says is ignored"


def test_a_file_that_changes_is_read_again(configs: Path) -> None:
    path = configs / "methods/toy/_root.yaml"
    assert catalog.read("methods/toy/deep")["late"] == 0
    path.write_text("late: 7")
    assert catalog.read("methods/toy/deep")["late"] == 7
    path.write_text("- a list")
    with pytest.raises(ConfigError, match=r"_root\.yaml is no mapping"):
        catalog.read("methods/toy/deep")
