"""The ground floor: building from configs, streams of random numbers, schedules, orders, keys of caches."""

import math

import numpy as np
import pytest
import torch

from decathlon import randomness
from decathlon.build import build, locate
from decathlon.distributed import average, gather, gather_rows, is_distributed, total
from decathlon.errors import ConfigError
from decathlon.orders import BatchOrder
from decathlon.schedules import SHAPES, schedule
from decathlon.storage import digest


class Thing:
    def __init__(self, size: int, rate: float = 0.1, kind: str | None = None, flag: bool = False) -> None:
        if size < 0:
            raise ValueError(f"size={size} is negative")
        self.size, self.rate, self.kind, self.flag = size, rate, kind, flag


def spec(**options: object) -> dict[str, object]:
    return {"name": "thing", "title": "A thing", "class": f"{__name__}.Thing", "ignores": ["lr"], **options}


def test_build_passes_options_and_lets_the_caller_win() -> None:
    thing = build(spec(size=3, rate=1), kind="x")
    assert (thing.size, thing.rate, thing.kind) == (3, 1, "x")
    assert build({"class": "torch.nn.Linear", "out_features": 2}, 3).weight.shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"size": 1, "raet": 2}, "method=thing has no option raet; choose size, rate, kind, flag"),
        ({}, "method=thing needs the option size"),
        ({"size": -1}, "method=thing: size=-1 is negative"),
        ({"size": "abc"}, "method=thing: size=abc is no whole number"),
        ({"size": 1.5}, "method=thing: size=1.5 is no whole number"),
        ({"size": 1, "rate": "fast"}, "method=thing: rate=fast is no number"),
        ({"size": 1, "rate": True}, "method=thing: rate=True is no number"),
        ({"size": 1, "flag": 1}, "method=thing: flag=1 is no true or false"),
        ({"size": 1, "kind": 3}, "method=thing: kind=3 is no text"),
    ],
)
def test_build_refuses_in_one_line(options: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}$"):
        build(spec(**options), called="method")


def test_what_the_caller_gives_is_no_option() -> None:
    with pytest.raises(ConfigError, match="has no option size; choose rate, flag"):
        build(spec(size=1), 2, kind="x")


@pytest.mark.parametrize("path", ["torch.nn.Nothing", "no.such.module", "nothing", ""])
def test_a_class_that_is_not_there(path: str) -> None:
    with pytest.raises(ConfigError, match="is no class that can be found"):
        locate(path)


def test_a_stream_depends_on_its_key_alone() -> None:
    draw = [torch.rand(3, generator=randomness.generator(*key)) for key in [("a", 1), ("a", 1), ("a", 2), ("a1",)]]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2]) and not torch.equal(draw[0], draw[3])
    assert randomness.seed_of("a", 1) == 8026709606008964  # on every machine, for good
    assert randomness.numpy_generator("a").random() == randomness.numpy_generator("a").random()


def test_seeded_restores_the_global_stream() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with randomness.seeded("weights", 0):
        first = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with randomness.seeded("weights", 0):
        assert torch.equal(torch.rand(2), first)


def test_one_process_answers_for_itself() -> None:
    values = torch.arange(3.0)
    average(values)
    assert not is_distributed() and values.tolist() == [0, 1, 2] and total(4) == 4
    assert torch.equal(gather(values)[0], values) and torch.equal(gather_rows(values)[0], values)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_schedules(shape: str, end: float) -> None:
    factor = schedule(shape, 100, warmup=10, end=end)
    assert factor(0) == 0.1 and factor(9) == factor(10) == 1
    last = 1 if shape == "constant" else end
    assert math.isclose(factor(100), last, abs_tol=1e-12) and factor(1000) == factor(100)
    assert all(factor(k + 1) <= factor(k) + 1e-12 for k in range(10, 120))
    assert schedule(shape, 100, warmup=10, first=0)(0) == 0
    half = {"constant": 1, "linear": (1 + end) / 2, "cosine": (1 + end) / 2}[shape]
    assert math.isclose(factor(55), half)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"shape": "cos", "steps": 10}, "schedule=cos is unknown; choose constant, linear, cosine"),
        ({"shape": "cosine", "steps": 0}, "at least 1"),
        ({"shape": "cosine", "steps": 10, "warmup": 10}, "from 0 to steps - 1"),
        ({"shape": "cosine", "steps": 10, "end": -1.0}, "negative"),
    ],
)
def test_a_schedule_that_cannot_be(given: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        schedule(**given)  # type: ignore[arg-type]


def test_each_epoch_has_each_sample_once_and_a_step_needs_no_history() -> None:
    order = BatchOrder(10, 5, seed=3)
    batches = [order.batch(step) for step in range(6)]
    for epoch in range(3):
        assert torch.cat(batches[2 * epoch : 2 * epoch + 2]).sort().values.tolist() == list(range(10))
    assert not torch.equal(batches[0], batches[2])
    assert torch.equal(BatchOrder(10, 5, seed=3).batch(5), batches[5])
    assert len(BatchOrder(3, 8, seed=0).batch(7)) == 3
    with pytest.raises(ValueError, match="at least 1"):
        BatchOrder(0, 1, 0)


def test_a_digest_sees_all_of_its_parts() -> None:
    a = torch.arange(6.0)
    parts = [
        (a,), (a.view(2, 3),), (a.double(),), (a.numpy(),), (a + torch.eye(6)[2],), (["ab", "c"],), (["a", "bc"],),
        ("ab", "c"), (["a\nb"],), (["a", "b"],), ({"x": 1},), ({"x": 1.0},), ({"x": "1"},), ({"x": None},), (None,),
        (b"x",), (True,), (1,), (torch.tensor([]),), ([],), (np.array([1, 2]),), (np.array([1, 2], dtype=np.int32),),
        (torch.tensor([1.0], dtype=torch.bfloat16),),
    ]  # fmt: skip
    assert len({digest(*part) for part in parts}) == len(parts)
    assert digest({"x": 1, "y": 2}) == digest({"y": 2, "x": 1}) and len(digest()) == 16
    with pytest.raises(TypeError, match="a object cannot be part"):
        digest(object())
