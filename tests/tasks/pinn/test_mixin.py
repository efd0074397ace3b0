"""The mix-in's choice of optimizer, its learning rates, and how heads train under M-ConFIG."""

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from decathlon.errors import ConfigError
from decathlon.tasks.pinn import NotFiniteError
from decathlon.tasks.pinn.mixin import ConflictFreeMixin
from decathlon.tasks.pinn.schedule import cosine_with_warmup

SUM = {"class": "decathlon.tasks.pinn.LS"}
CONFIG = {"class": "decathlon.tasks.pinn.ConFIG"}
MCONFIG = {"class": "decathlon.tasks.pinn.MConFIG"}
LBFGS = {"class": "torch.optim.LBFGS", "line_search_fn": "strong_wolfe"}


class Net(ConflictFreeMixin, LightningModule):
    """Two losses of a small network and of one unknown coefficient."""

    def __init__(self, method: dict[str, Any], lr: float = 1e-2, heads: bool = False, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.head = nn.Sequential(nn.Linear(2, 8), nn.Tanh()), nn.Linear(8, 2)
        self.unknown = nn.Parameter(torch.zeros(1))
        own = self.head.parameters() if heads else ()
        options = {"log_every": 2, **options}
        if "coefficient_lr" in options:
            options["coefficients"] = [self.unknown]
        self.setup_conflict(method, ["a", "b"], lr, heads=own, **options)
        self.seen: list[dict[str, Tensor]] = []

    def losses(self, step: int, bad: bool = False) -> dict[str, Any]:
        x = torch.randn(16, 2, generator=torch.Generator().manual_seed(step))
        factor = torch.nan if bad else 1.0
        return {
            "a": lambda: factor * (self.head(self.trunk(x))[:, 0] - x.sum(dim=1)).square().mean(),
            "b": lambda: (self.head(self.trunk(x))[:, 1] - x[:, 0] + self.unknown - 1).square().mean(),
        }

    def training_step(self, batch: Any, index: int) -> None:
        self.seen.append(self.conflict_step(self.losses(0)))

    def flat(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.parameters()])


def fit(net: Net, steps: int = 4, **options: Any) -> Trainer:
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, DataLoader(range(steps), batch_size=None), **options)  # type: ignore[arg-type]
    return trainer


def test_adamw_is_torchs_adamw_on_the_combined_gradient() -> None:
    from decathlon.tasks.pinn import Backward, ConFIG

    spec = {"class": "torch.optim.AdamW", "weight_decay": 0.1}
    net, plain = Net({**CONFIG, "optimizer": spec}), Net(CONFIG)
    step = Backward(plain.parameters(), ConFIG())
    adam = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.1)
    for k in range(5):
        net.conflict_step(net.losses(k))
        step(plain.losses(k))
        adam.step()
    assert torch.equal(net.flat(), plain.flat())


def test_the_default_is_adam() -> None:
    nets = [Net(CONFIG), Net({**CONFIG, "optimizer": {"class": "torch.optim.Adam", "foreach": True}})]
    for net in nets:
        for k in range(5):
            net.conflict_step(net.losses(k))
    assert torch.equal(nets[0].flat(), nets[1].flat())


def test_lbfgs_minimises_the_plain_sum() -> None:
    net, adam = Net({**SUM, "optimizer": LBFGS}, lr=1.0), Net(SUM)
    trainer = fit(net, 6)
    fit(adam, 60)
    assert trainer.global_step == net.conflict_steps == 6
    final, other = (sum(float(loss().detach()) for loss in one.losses(0).values()) for one in (net, adam))
    assert final < 0.01 * other
    assert {"a", "b", "cos_raw/a", "cos_step/b"} <= set(net.seen[0])
    assert float(net.seen[0]["cos_step/a"]) > 0
    assert set(net.seen[1]) == {"a", "b"}


def test_lbfgs_with_tensors_asks_for_them_again() -> None:
    functions, tensors = (Net({**SUM, "optimizer": LBFGS}, lr=1.0) for _ in range(2))

    def evaluated() -> dict[str, Tensor]:
        return {name: loss() for name, loss in tensors.losses(0).items()}

    for _ in range(3):
        functions.conflict_step(functions.losses(0))
        tensors.conflict_step(evaluated(), evaluated)
    assert torch.equal(functions.flat(), tensors.flat())
    with pytest.raises(ValueError, match="again"):
        tensors.conflict_step(evaluated())


@pytest.mark.parametrize(
    ("method", "match"),
    [
        ({**CONFIG, "optimizer": LBFGS}, "LBFGS needs one fixed loss"),
        ({**SUM, "clip_norm": 1.0, "optimizer": LBFGS}, "LBFGS needs one fixed loss"),
        ({"class": "decathlon.tasks.pinn.FAMO", "optimizer": LBFGS}, "not FAMO"),
        ({**MCONFIG, "optimizer": {"class": "torch.optim.AdamW"}}, "optimizer has no effect with M-ConFIG"),
        ({**MCONFIG, "clip_norm": 1.0}, "clip_norm has no effect with M-ConFIG"),
        ({**CONFIG, "optimizer": MCONFIG}, "choose it as the method"),
        ({**CONFIG, "optimizer": {"class": "torch.nn.ReLU"}}, "ReLU"),
        ({**CONFIG, "optimizer": {"class": "torch.optim.AdamW", "lr": 1.0}}, "the run's own"),
        (
            {**CONFIG, "optimizer": {"class": "torch.optim.AdamW", "decay": 1.0}},
            "no option decay; choose",
        ),
        ({**CONFIG, "optimizer": {"class": "torch.optim.AdamV"}}, "AdamV"),
        ({**CONFIG, "optimizer": "adamw"}, "names no class"),
    ],
)
def test_what_would_be_wrong_or_ignored_is_one_line(method: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match) as found:
        Net(method)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("method", [CONFIG, SUM, MCONFIG, {**SUM, "optimizer": {"class": "torch.optim.SGD"}}])
def test_coefficients_have_their_own_rate_in_proportion_to_the_schedule(method: dict[str, Any]) -> None:
    schedule = cosine_with_warmup(10, 1e-2, 1e-3)
    net, plain = Net(method, schedule=schedule, coefficient_lr=0.1), Net(method, schedule=schedule)
    for k in range(4):
        before = net.unknown.item(), plain.unknown.item()
        net.conflict_step(net.losses(k))
        plain.conflict_step(plain.losses(k))
        assert net._optimizer.param_groups[0]["lr"] == schedule(k)
        assert net._optimizer.param_groups[1]["lr"] == pytest.approx(10 * schedule(k))
        if before == (0.0, 0.0):  # the first step that moves
            assert net.unknown.item() == pytest.approx(10 * plain.unknown.item(), rel=1e-4)
    assert plain.unknown.item() != 0
    for bad, match in (
        ({"coefficient_lr": -1.0}, "must not be negative"),
        ({"coefficient_lr": 1.0, "lr": 0.0}, "positive"),
    ):
        with pytest.raises(ConfigError, match=match):
            Net(method, **bad)


def test_heads_under_mconfig_are_trained_by_adam_on_the_sum() -> None:
    net, plain = Net(MCONFIG, heads=True), Net(MCONFIG, heads=True)
    adam = torch.optim.Adam(plain.head.parameters(), lr=1e-2)
    for k in range(3):
        net.conflict_step(net.losses(k))
        if k == 0:
            adam.zero_grad()
            sum(loss() for loss in plain.losses(k).values()).backward()
            adam.step()
            assert torch.allclose(net.head.weight, plain.head.weight, atol=1e-6)
    with pytest.raises(ConfigError, match="head_lr is for M-ConFIG"):
        Net(CONFIG, heads=True, head_lr=1.0)


@pytest.mark.parametrize("method", [CONFIG, SUM, MCONFIG, {"class": "decathlon.tasks.pinn.LRA"}])
@pytest.mark.parametrize("heads", [False, True])
def test_a_bad_batch_is_left_out_and_training_goes_on(method: dict[str, Any], heads: bool) -> None:
    calm, hit = Net(method, heads=heads), Net(method, heads=heads)
    for k in range(6):
        calm.conflict_step(calm.losses(k))
        failed = 0
        try:
            hit.conflict_step(hit.losses(k, bad=True))
        except NotFiniteError:
            failed = 1
        assert failed or method is MCONFIG  # the bad loss was not evaluated
        if failed:
            hit.conflict_step(hit.losses(k))
    assert torch.equal(calm.flat(), hit.flat())


def test_checkpoints_of_an_optimizer_with_groups_go_on(tmp_path) -> None:
    method = {**CONFIG, "optimizer": {"class": "torch.optim.AdamW", "weight_decay": 0.1}}
    whole, half, rest = (Net(method, coefficient_lr=0.1) for _ in range(3))
    fit(whole, 6)
    fit(half, 3).save_checkpoint(tmp_path / "half.ckpt")
    fit(rest, 6, ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(whole.flat(), rest.flat())
