"""What jobs keep of what they trained: loaded without runner or data, equal to what the job had, used on tables."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import decathlon as package
from decathlon import trained
from decathlon.errors import ConfigError, DataError, UserError
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct, execute
from decathlon.runner.job import Job
from tests.conftest import Door


def finished(folder: Path, *overrides: str, data: Path | None = None) -> tuple[Job, Any]:
    """A job that has run with ``+debug=true``, and its module."""
    places = [f"results_dir={folder / 'results'}", f"data_dir={data or folder / 'data'}"]
    job = Job.of(compose_config([*overrides, *places, "+debug=true", "trainer=cpu"]))
    job.folder.mkdir(parents=True)
    built = construct(job.config)
    outcome = execute(job.config, job.folder, built)
    job.finish({"wall_time_s": 1.0, "config": job.config, **outcome})
    return job, built[0]


def answered(decathlon_here: Door, job: Job, text: str, name: str = "table.csv") -> tuple[list[dict[str, str]], str]:
    """A table's rows with the job's answers, and what was said of the others."""
    Path(name).write_text(text)
    said = decathlon_here("predict", str(job.folder), name)
    assert said.status == 0, said.stderr
    return list(csv.DictReader(io.StringIO(said.stdout))), said.stderr


@pytest.mark.parametrize("model", ["fp_mlp", "gin_small"])
def test_molpeg_predicts_in_the_units_of_the_labels(model: str, here: Path, decathlon_here: Door) -> None:
    smiles = ["C" * (i % 7 + 1) + "O" * (i % 2) for i in range(60)]
    lines = [f"{s},{100 + 50 * (i % 7)},{i % 2}" for i, s in enumerate(smiles)]
    (here / "mine.csv").write_text("smiles,weight,other\n" + "\n".join(lines))
    own = [
        "task=molpeg",
        "dataset=csv",
        "file=mine.csv",
        "task_type=regression",
        f"model={model}",
        "data.max_molecules=null",
    ]
    job, module = finished(here, *own)
    shutil.rmtree(here / "data")
    found = package.load(job.folder)
    assert found.tasks == ["weight", "other"] and not found.classification
    values = found.predict([*smiles[:5], "nonsense"])
    data = construct(job.config)[1]
    data.setup("fit")
    part = data.parts["test"]
    batch = part.batch(torch.arange(len(part)))
    with torch.no_grad():
        expected = module.online.eval()(batch) * module.target[1] + module.target[0]
    assert torch.allclose(found.predict(part.table.smiles).float(), expected, rtol=1e-5, atol=1e-4)
    assert values[:5].isfinite().all() and values[5].isnan().all()
    rows, said = answered(decathlon_here, job, "name;SMILES\na;CCO\nb;nonsense\nc;C;D\nd;CC\n")
    assert [row["name"] for row in rows] == ["a", "b", "c", "d"]
    assert float(rows[0]["weight"]) == pytest.approx(float(found.predict(["CCO"])[0, 0]), rel=1e-4)
    assert rows[1]["weight"] == rows[2]["weight"] == "" and rows[3]["weight"]
    assert "2 of 4 rows" in said and "line 3: 'nonsense' is no molecule" in said and "line 4: 3 fields" in said


def test_molpeg_predicts_probabilities(here: Path, embedded_data: Path) -> None:
    job, _ = finished(here, "task=molpeg", data=embedded_data)
    values = package.load(job.folder).predict(["CCO", "c1ccccc1"])
    assert ((values > 0) & (values < 1)).all() and package.load(job.folder).classification


def test_pinn_gives_the_solution_and_the_unknown(here: Path, decathlon_here: Door) -> None:
    job, module = finished(here, "task=pinn", "dataset=burgers_inverse")
    solution = package.load(job.folder)
    points = torch.rand(7, 2, dtype=torch.float64)
    assert torch.equal(solution(points), module.predict(points).double())
    assert torch.equal(solution(points.tolist()), solution(points.numpy()))
    assert list(solution.unknowns.values()) == [p.item() for p in module.problem.parameters()] != []
    rows, said = answered(decathlon_here, job, "t,x,note\n0.5,0.1,a\nsoon,0.1,b\n0.5,nan,c\n")
    assert float(rows[0]["u"]) == pytest.approx(float(solution([[0.1, 0.5]])), rel=1e-4)
    assert "line 3: t='soon' is no number" in said and "line 4: a number is not finite" in said
    with pytest.raises(ValueError, match=r"points are \(n, 2\): x, t"):
        solution([0.5])


def test_pinn_gives_a_classifier(here: Path) -> None:
    job, module = finished(here, "task=pinn", "dataset=digits_overlay")
    images = torch.rand(3, 8, 12)
    module.eval()
    with torch.no_grad():
        expected = module.heads(module.trunk(images))
    found = package.load(job.folder)
    assert torch.equal(found.logits(images), expected) and found.attributes == module.attributes
    with pytest.raises(ConfigError, match="answers no tables"):
        from decathlon.runner.predict import predict

        predict(str(job.folder), "none.csv", None, here)


def test_kele_keeps_edits_that_are_written_one_upon_the_other(here: Path, decathlon_here: Door) -> None:
    job, module = finished(here, "task=kele", "method.steps=4", "figures=false")
    shutil.rmtree(here / "data")
    found = package.load(job.folder)
    assert len(found.updates) == 3
    first, second = list(found.updates)[:2]
    before = {name: value.clone() for name, value in found.model.state_dict().items()}
    (name,) = found.updates[first].deltas
    found.write(first)
    once = found.model.get_submodule(name).weight.clone()
    with found.updates[second].applied(found.model):
        twice = found.model.get_submodule(name).weight.clone()
    assert torch.equal(found.model.get_submodule(name).weight, once) and not torch.equal(once, twice)
    found.write(second)
    assert torch.equal(found.model.get_submodule(name).weight, twice)
    assert not torch.equal(before[f"{name}.weight"], twice)
    found.save(here / "edited")
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(here / "edited")
    assert torch.equal(again.get_submodule(name).weight, twice)
    with pytest.raises(ConfigError, match="nobody is no case of this job; choose"):
        found.write("nobody")
    rows, said = answered(decathlon_here, job, f"prompt,case\nfnA lnA is a citizen of,{first}\nfnA lnA is,\n,\nfnA,x\n")
    assert rows[0]["says"] and rows[1]["says"] and not rows[2]["says"]
    assert "line 4: it has no prompt" in said and "line 5: x is no case of this job" in said
    assert module.keeps


@pytest.mark.parametrize("method", ["jregnet", "rvcg_reserve"])
def test_jregnet_gives_the_mechanism(method: str, here: Path, decathlon_here: Door) -> None:
    values = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) * 5
    sides = (("mart", "store"), ("shop", "store"), ("cola", "brand"))
    lines = [f"{i},{n},{s},{v:.3f}" for i, row in enumerate(values.tolist()) for (n, s), v in zip(sides, row)]
    (here / "log.csv").write_text("auction,bidder,side,value\n" + "\n".join(lines))
    (here / "edges.csv").write_text("store,brand\nmart,cola\nshop,cola\n")
    own = ["dataset=csv", "dataset.values=log.csv", "dataset.edges=edges.csv", "figures=false"]
    job, module = finished(here, "task=jregnet", *own, f"method={method}")
    for name in ("log.csv", "edges.csv"):
        (here / name).unlink()
    found = package.load(job.folder)
    bids = torch.rand(5, 3) * 5
    mine, its = found.mechanisms[0](found.auction, bids), module.method.mechanism(0)(module.method.auction, bids)
    assert torch.equal(mine.allocation, its.allocation) and torch.equal(mine.payments, its.payments)
    assert found.bidders == ["mart", "shop", "cola"]
    rows, said = answered(decathlon_here, job, "mart,shop,cola\n1,2,3\n1,-2,3\n")
    assert 0 <= float(rows[0]["clicks mart"]) <= 1 and float(rows[0]["payment cola"]) >= 0
    assert "line 3: a bid is negative" in said


def test_cave_gives_the_planner_with_its_options(here: Path) -> None:
    job, module = finished(here, "task=cave", "dataset=instances", "particles=7", "allocation=equal", "figures=false")
    found = package.load(job.folder)
    epoch, numbers = module.epoch, torch.arange(2)
    again = found.plan(epoch.narrowed(numbers, epoch.count), numbers)
    plan = module.planner.assign(epoch.narrowed(numbers, epoch.count), numbers)
    assert torch.equal(again.assignment, plan.assignment) and found.settings == module.settings


def test_ndde_gives_estimates_and_the_curve(here: Path, decathlon_here: Door) -> None:
    job, module = finished(
        here, "task=ndde", "method=shooting", "method.starts=1", "method.fine_steps=100", "figures=false"
    )
    found = package.load(job.folder)
    fit = module._fit
    assert found.verdict == fit.verdict and found.estimates == fit.estimates
    times = torch.linspace(0, 10, 97, dtype=torch.float64)
    assert (found(times) - fit.solution(times)).abs().max() <= max(10 * found.error, 1e-12) and found.error < 1e-4
    rows, said = answered(decathlon_here, job, "t\n1.5\n11\n")
    assert (
        float(rows[0]["y"]) == pytest.approx(float(found([1.5])), rel=1e-4)
        and "line 3: t=11 is outside of [0, 10]" in said
    )
    with pytest.raises(ValueError, match=r"times lie in \[0, 10\]"):
        found([-1.0])


def test_a_job_is_found_by_its_folder_its_part_and_its_id(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = finished(here, "task=pinn", "figures=false")
    points = torch.rand(3, 2)
    first = package.load(job.folder)(points)
    shutil.copytree(job.folder / trained.FOLDER, here / "sent")
    for name in (str(job.folder), here / "sent", job.identity, job.identity[:6]):
        assert torch.equal(package.load(name)(points), first)
    monkeypatch.setenv("DECATHLON_RESULTS", str(here / "elsewhere"))
    with pytest.raises(UserError, match="has an id that begins with"):
        package.load(job.identity)
    shutil.rmtree(job.folder / trained.FOLDER)
    with pytest.raises(DataError, match="keeps nothing trained"):
        package.load(job.folder)
    (job.folder / "metrics.json").unlink()
    with pytest.raises(DataError, match="holds no finished job"):
        package.load(job.folder)


def test_nothing_in_a_file_is_executed(here: Path) -> None:
    job, _ = finished(here, "task=pinn", "figures=false")

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (here / "harm",))

    torch.save({"network": Evil(), "problem": {}}, job.folder / trained.FOLDER / trained.WEIGHTS)
    with pytest.raises(DataError, match="is broken"):
        package.load(job.folder)
    assert not (here / "harm").exists()


def test_what_is_kept_is_no_part_of_a_jobs_identity() -> None:
    from decathlon.runner import catalog

    for task in set(catalog.tasks()) - {"toy"}:
        job = Job.of(compose_config([f"task={task}"]))
        assert job.config["task"]["trained"]
        assert Job.of(compose_config([f"task={task}", "task.trained=null"])).identity == job.identity


def test_an_export_that_was_killed_leaves_nothing_in_the_way(here: Path) -> None:
    job, _ = finished(here, "task=pinn", "figures=false")
    (job.folder / ".trained.abcdefgh").mkdir()
    (job.folder / ".trained.abcdefgh" / "trained.pt").touch()
    from decathlon.runner.checkpoint import mend

    mend(job.folder)
    assert not (job.folder / ".trained.abcdefgh").exists() and (job.folder / trained.FOLDER).is_dir()
    assert json.loads((job.folder / "metrics.json").read_text())["metrics"]
