"""Many jobs planned at once are the jobs that Hydra composes one by one."""

from collections.abc import Sequence

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from decathlon.runner.compose import Composer, compose_config
from decathlon.runner.job import Job
from decathlon.runner.planning import Planner, parse, references, value_of
from decathlon.tables import plan


class Counting(Composer):
    """Counts how many configs Hydra has composed."""

    count = 0

    def __call__(self, overrides: Sequence[str], with_hydra: bool = False):  # type: ignore[no-untyped-def]
        self.count += 1
        return super().__call__(overrides, with_hydra)


def combinations(*overrides: str) -> list[list[str]]:
    """The jobs of a sweep as Hydra's own sweeper splits them."""
    return BasicSweeper.split_arguments([parse(override) for override in overrides], max_batch_size=None)[0]


def assert_equal(jobs: list[list[str]]) -> None:
    planner, compose = Planner(), Composer(jobs_only=True)
    for overrides in jobs:
        fast, slow = planner.job(overrides), Job.of(compose(overrides))
        assert fast.identity == slow.identity, overrides
        assert fast.config == slow.config, overrides
        assert fast.folder == slow.folder


@pytest.mark.parametrize("name", ["toy/small", "pinn/small", "kele/rs_buckets", "molpeg/hiv_small", "jregnet/small"])
def test_an_experiments_jobs_are_those_that_hydra_composes(name: str) -> None:
    base = compose_config([f"experiment={name}"], with_hydra=True)
    jobs = combinations(*[f"{key}={value}" for key, value in base.hydra.sweeper.params.items()])
    planned = [job.job for job in plan.load(name).jobs]
    assert len(planned) == len(jobs)
    step = max(1, len(jobs) // 4) if name != "toy/small" else 1
    compose = Composer(jobs_only=True)
    for number in range(len(jobs) - 1, -1, -step):
        slow = Job.of(compose([f"experiment={name}", *jobs[number]]))
        assert planned[number].identity == slow.identity and planned[number].config == slow.config


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=0,1,2", "method=linear,fixed", "lr=0.1,0.2"],
        ["seed=0,1.0", "lr=0.1,1e-1,'0.1'", "width=null,8"],
        ["dataset.n=64,128", "+dataset.methods=[linear],[fixed]", "+dataset.extra=1,x"],
        ["+debug=true", "epochs=1,3", "method=linear,fixed"],
        ["lr=0.1,${.width}", "width=3,4"],
        ["epochs=${dataset.n},2", "dataset.n=5,6"],
        ["method.title=a,b", "method.name=linear,other"],
        ["+method.ignores=[lr],[width]", "lr=0.1,0.2", "width=1,2"],
        ["results_dir=/a,/b", "seed=0,1"],
        ["results_dir=/a/${seed}", "seed=0,1"],
        ["module.width=1,2", "width=3,4"],
        ["+loop={max_steps:3},{max_steps:4}", "seed=0,1"],
        ["~smoke", "seed=0,1"],
        ["trainer=cpu,ddp_cpu", "seed=0,1", "checkpoint.every_n_steps=1,2"],
        ["+callbacks.x={a:1},{b:${seed}}", "seed=0,1"],
        ["threads=1,2", "dataset=points,broken", "method=linear,fixed,crash", "seed=0,1"],
    ],
)
def test_odd_sweeps_too(overrides: list[str]) -> None:
    assert_equal(combinations("task=toy", *overrides))


def test_datasets_and_methods_are_composed_once_each() -> None:
    compose = Counting(jobs_only=True)
    planner = Planner(compose)
    jobs = combinations("task=toy", "dataset=points,broken", "method=linear,fixed,crash", "seed=0,1,2,3", "lr=0.1,0.2")
    assert len({planner.job(job).identity for job in jobs}) == 2 * (4 * 2 * 2 + 4)  # `fixed` ignores lr
    assert compose.count == 2 + 3 - 1


def test_what_an_interpolation_reads() -> None:
    assert references("plain") == set()
    assert references("test/${dataset.metric} of ${a}") == {"dataset.metric", "a"}
    assert references("${oc.select:dataset.steps,${steps}}") == {"dataset.steps", "steps"}
    assert references("${oc.select:a.b,none}") == {"a.b", "none"}
    for unknown in ("${.a}", "${a.${b}}", "${oc.select:${a}}", "${now:%Y}", "${a[0]}", "${a}${..b}"):
        assert references(unknown) is None, unknown


def test_values_are_found_under_whole_numbers_too() -> None:
    assert value_of({"a": {1: "x"}}, "a.1") == "x"
    assert value_of({"a": 3}, "a.b") is None


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["task=molpeg", "dataset=hiv"], ["prune=0.6", "++method.extra={a: 1}", "++labels=[x,y]"]),
        (["task=kele"], ["seed=3", "task.title=other"]),
        (["task=osd"], ["method=galore", "lr=0.1"]),  # a group among them: composed as a whole
    ],
)
def test_keys_set_after_composition_are_keys_composed(words: list[str], keys: list[str]) -> None:
    composer = Composer(jobs_only=True)
    for _ in range(2):  # what is kept of the first is as it was
        assert composer.with_keys(words, keys) == composer([*words, *keys])
    assert composer.with_keys(words, []) == composer(words)
