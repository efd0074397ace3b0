"""toy2d: Fig. 1 of ConFIG, two losses of two variables on which plain gradient descent gets stuck."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule
from torch.utils.data import DataLoader

from decathlon.errors import ConfigError
from decathlon.tasks.pinn.method_config import build_operator, is_momentum
from decathlon.tasks.pinn.multitask.batches import Steps
from decathlon.tasks.pinn.operators import GramOperator
from decathlon.tasks.pinn.schedule import Schedule, make_schedule
from decathlon.tasks.pinn.weightings import LS

Array = np.ndarray

STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
_CONFIG = {"class": "decathlon.tasks.pinn.ConFIG"}
_FLOOR = 5e-6
_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


def losses_and_gradients(points: Array, scale: float = 0.1) -> tuple[Array, Array]:
    """The two losses and their gradients at many points (the landscape of CAGrad and ConFIG).

    ``c1 = max(tanh(y/2), 0)``, ``c2 = max(tanh(-y/2), 0)``::

        L1 = c1 (ln max(|0.5(-x - 7) - tanh(-y)|, 5e-6) + 6) + c2 (((7 - x)^2 + 0.1 (y + 8)^2)/10 - 20)
        L2 = c1 (ln max(|0.5(3 - x) + tanh(-y) + 2|, 5e-6) + 6) + c2 (((x + 7)^2 + 0.1 (y + 8)^2)/10 - 20)

    Args:
        points: (B, 2), float64.
        scale: factor of the first loss.

    Returns:
        losses (B, 2) and gradients (B, 2 losses, 2 coordinates).
    """
    x, y = points[:, 0], points[:, 1]
    half, whole = np.tanh(y / 2), np.tanh(y)
    upper, lower = np.maximum(half, 0.0), np.maximum(-half, 0.0)
    # On the kink both sides count half, as in torch.maximum.
    d_upper = 0.5 * (1 - half**2) * np.heaviside(y, 0.5)
    d_lower = -0.5 * (1 - half**2) * np.heaviside(-y, 0.5)
    steep = 1 - whole**2
    losses, gradients = np.empty((len(x), 2)), np.empty((len(x), 2, 2))
    branches = (
        (0.5 * (-x - 7) + whole, steep, x - 7, scale),
        (0.5 * (3 - x) - whole + 2, -steep, x + 7, 1.0),
    )
    for i, (wall, d_wall, offset, factor) in enumerate(branches):
        logarithm = np.log(np.maximum(np.abs(wall), _FLOOR)) + 6
        bowl = (offset**2 + 0.1 * (y + 8) ** 2) / 10 - 20
        active = np.abs(wall) > _FLOOR
        inverse = np.where(active, 1 / np.where(active, wall, 1.0), 0.0)
        losses[:, i] = factor * (upper * logarithm + lower * bowl)
        gradients[:, i, 0] = factor * (upper * inverse * -0.5 + lower * offset / 5)
        gradients[:, i, 1] = factor * (
            d_upper * logarithm + upper * inverse * d_wall + d_lower * bowl + lower * 0.02 * (y + 8)
        )
    return losses, gradients


class Descent:
    """Adam on the combined gradient, or M-ConFIG, from many starts at once; each start has its own moments.

    Args:
        method: method config: a Gram operator, the plain sum, or M-ConFIG with one loss per step.
        starts: (B, 2).
        scale: factor of the first loss.

    Raises:
        ConfigError: the method is another one.
    """

    def __init__(self, method: dict[str, Any], starts: Any = STARTS, scale: float = 0.1) -> None:
        self.scale = scale
        self.momentum = is_momentum(method)
        spec = dict(method.get("operator") or _CONFIG) if self.momentum else dict(method)
        if spec.pop("clip_norm", None) is not None:
            raise ConfigError("toy2d does not clip gradients: method.clip_norm=null")
        operator = build_operator(spec)
        if self.momentum and method.get("updates_per_step", 1) != 1:
            raise ConfigError("toy2d has two losses: M-ConFIG updates one of them per step, updates_per_step=1")
        if not isinstance(operator, GramOperator | LS) or getattr(operator, "weighting", None) is not None:
            raise ConfigError(f"method={method.get('name')} cannot run on toy2d; choose one without loss weights")
        self.operator = operator
        points = np.array(starts, dtype=np.float64)
        self.state: dict[str, Array] = {
            "points": points,
            "first": np.zeros_like(points),
            "second": np.zeros_like(points),
            "momenta": np.zeros((len(points), 2, 2)),
            "counts": np.zeros(4, dtype=np.int64),  # steps, updates, refreshes of loss 0 and of loss 1
        }

    def run(self, steps: int, schedule: Schedule) -> None:
        """Make ``steps`` more steps."""
        advance = self._momentum_step if self.momentum else self._adam_step
        counts = self.state["counts"]
        for _ in range(steps):
            advance(schedule(int(counts[0])))
            counts[0] += 1

    def combine(self, gradients: Array) -> Array:
        """The operator for every start: (B, 2, 2) -> (B, 2)."""
        if isinstance(self.operator, LS):
            return gradients.sum(axis=1)
        gram = torch.from_numpy(gradients @ gradients.transpose(0, 2, 1))
        if self.operator.batched:
            weights = self.operator.coefficients(gram)
        else:
            weights = torch.stack([self.operator.coefficients(one) for one in gram])
        return np.einsum("bi,bij->bj", weights.numpy(), gradients)

    def _adam_step(self, rate: float) -> None:
        state = self.state
        update = self.combine(losses_and_gradients(state["points"], self.scale)[1])
        counts = state["counts"]
        counts[1] += 1
        state["first"] += (1 - _BETA1) * (update - state["first"])
        state["second"] += (1 - _BETA2) * (update**2 - state["second"])
        self._move(state["first"] / (1 - _BETA1 ** int(counts[1])), rate)

    def _momentum_step(self, rate: float) -> None:
        """Algorithm 1, as in ``MConFIG``."""
        state = self.state
        counts, momenta = state["counts"], state["momenta"]
        due = (int(counts[0]) + 1) % 2
        gradient = losses_and_gradients(state["points"], self.scale)[1][:, due]
        counts[2 + due] += 1
        momenta[:, due] += (1 - _BETA1) * (gradient - momenta[:, due])
        if not counts[2:].all():
            return
        counts[1] += 1
        corrections = 1 - _BETA1 ** counts[2:].astype(float)
        direction = self.combine(momenta / corrections[:, None])
        first = direction * (1 - _BETA1 ** int(counts[1]))
        implied = (first - _BETA1 * state["first"]) / (1 - _BETA1)
        state["first"] = first
        state["second"] += (1 - _BETA2) * (implied**2 - state["second"])
        self._move(direction, rate)

    def _move(self, direction: Array, rate: float) -> None:
        spread = np.sqrt(self.state["second"] / (1 - _BETA2 ** int(self.state["counts"][1])))
        self.state["points"] = self.state["points"] - rate * direction / (spread + _EPS)


class Toy2dData(LightningDataModule):
    """There is no data: a batch is the number of a block of steps.

    Args:
        root: not used.
        dataset: ``steps``: how many blocks.
        seed: not used, the descent is deterministic.
    """

    def __init__(self, root: str | Path, dataset: dict[str, Any], seed: int = 0) -> None:
        super().__init__()
        self.blocks = int(dataset["steps"])

    def train_dataloader(self) -> DataLoader:
        return _counter(self.blocks)

    def test_dataloader(self) -> DataLoader:
        return _counter(1)


def _counter(count: int) -> DataLoader:
    steps: Any = range(count)
    return DataLoader(steps, sampler=Steps(count), batch_size=None)


class Toy2d(LightningModule):
    """Descends from all starts; one training step is a block of ``inner_steps`` steps of the method.

    Logged: ``test/reached`` (how many starts ended with y < 0, that is on the side of the Pareto set),
    ``test/loss_sum`` (mean over starts), and ``test/x_k``, ``test/y_k`` of each start k. Writes ``trajectories.png``.

    Args:
        method: method config.
        dataset: ``inner_steps``, ``momentum_inner_steps`` (under M-ConFIG), ``scale`` of the first loss, ``schedule``.
        lr, lr_end, steps: of the schedule; ``steps`` is the number of blocks.
        seed: not used.
        figures: whether to draw the trajectories.
    """

    def __init__(
        self,
        method: dict[str, Any],
        dataset: dict[str, Any],
        lr: float,
        lr_end: float,
        steps: int,
        seed: int = 0,
        figures: bool = True,
    ) -> None:
        super().__init__()
        self.figures = figures
        self.automatic_optimization = False
        self.descent = Descent(method, STARTS, float(dataset["scale"]))
        self.inner_steps = int(dataset["momentum_inner_steps" if self.descent.momentum else "inner_steps"])
        if self.inner_steps < 1:
            raise ConfigError(f"inner_steps={self.inner_steps} must be at least 1")
        total = steps * self.inner_steps
        self.schedule = make_schedule(dataset, lr, lr_end, total)
        self.path = [self.descent.state["points"].tolist()]
        self.anchor = torch.nn.Parameter(torch.zeros(()))  # Lightning counts optimizer steps

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.anchor], lr=0.0)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.descent.run(self.inner_steps, self.schedule)
        self.path.append(self.descent.state["points"].tolist())
        self.optimizers().step()  # type: ignore[union-attr]
        losses, _ = losses_and_gradients(self.descent.state["points"], self.descent.scale)
        self.log("train/loss_sum", float(losses.sum(axis=1).mean()), prog_bar=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        points = self.descent.state["points"]
        losses, _ = losses_and_gradients(points, self.descent.scale)
        found = {"test/reached": float((points[:, 1] < 0).sum()), "test/loss_sum": float(losses.sum(axis=1).mean())}
        for k, (x, y) in enumerate(points):
            found |= {f"test/x_{k}": float(x), f"test/y_{k}": float(y)}
        self.log_dict(found, batch_size=1)
        if self.figures and self.trainer.is_global_zero:
            plot(np.array(self.path), Path(self.trainer.default_root_dir) / "trajectories.png", self.descent.scale)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        tensors = {name: torch.from_numpy(value.copy()) for name, value in self.descent.state.items()}
        checkpoint["descent"] = {"state": tensors, "operator": self.descent.operator.state_dict(), "path": self.path}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["descent"]
        self.descent.state = {name: value.numpy().copy() for name, value in saved["state"].items()}
        self.descent.operator.load_state_dict(saved["operator"])
        self.path = [list(points) for points in saved["path"]]


def plot(path: Array, file: Path, scale: float = 0.1) -> None:
    """Trajectories (T, B, 2) on the contours of the loss sum; the Pareto set is where both losses pull along x only."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    x, y = np.meshgrid(np.linspace(-11, 11, 221), np.linspace(-11, 11, 221))
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    height = losses_and_gradients(points, scale)[0].sum(axis=1).reshape(x.shape)
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.contour(x, y, height, levels=25, linewidths=0.6, cmap="viridis")
    axes.plot([-7, 7], [-8.4, -8.4], color="grey", linewidth=4, alpha=0.5, label="Pareto set")
    for k in range(path.shape[1]):
        axes.plot(path[:, k, 0], path[:, k, 1], linewidth=1.4)
        axes.plot(*path[0, k], "o", color="black", markersize=4)
        axes.plot(*path[-1, k], "*", color="red", markersize=9)
    axes.set(xlim=(-11, 11), ylim=(-11, 11), xlabel="x", ylabel="y")
    axes.legend(loc="upper right")
    figure.savefig(file, dpi=130)
