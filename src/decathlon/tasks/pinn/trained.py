"""What a job of task=pinn has trained: the solution of an equation, or a classifier of images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decathlon import trained
from decathlon.build import locate
from decathlon.errors import DataError
from decathlon.tasks.pinn.data import make_problem
from decathlon.tasks.pinn.module import make_network
from decathlon.tasks.pinn.multitask.module import MultiTask


class Solution:
    """The network's fields at any points.

    Attributes:
        coordinates, fields: names, for instance ``"xt"`` and ``("u",)``.
        unknowns: the estimates of the equation's unknown coefficients.
        network: points (n, coordinates) in its own precision to fields (n, fields), differentiable.
    """

    def __init__(self, state: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
        self.problem = make_problem(dataset)
        self.problem.load_state_dict(state["problem"])
        self.network = make_network(self.problem, dataset)
        self.network.load_state_dict(state["network"])
        self.network.eval()
        self.coordinates, self.fields = tuple(self.problem.coordinates), tuple(self.problem.fields)
        self.unknowns = {name: parameter.item() for name, parameter in self.problem.named_parameters()}

    @torch.no_grad()
    def __call__(self, points: Any) -> Tensor:
        """Fields (n, fields), float64, at points (n, coordinates): a tensor, an array or nested lists."""
        x = torch.as_tensor(points, dtype=torch.float64)
        if x.ndim != 2 or x.shape[1] != len(self.coordinates):
            raise ValueError(f"points are (n, {len(self.coordinates)}): {', '.join(self.coordinates)}")
        return self.network(x.to(next(self.network.parameters()))).double()

    def predict_rows(self, rows: list[trained.Row]) -> list[dict[str, Any] | str]:
        """Of rows with a column for each coordinate: a column for each field."""
        return trained.from_numbers(rows, self.coordinates, self._row_values)

    def _row_values(self, numbers: list[list[float]]) -> list[dict[str, Any] | str]:
        return [dict(zip(self.fields, line)) for line in self(numbers).tolist()]


class Classifier:
    """Images to the logits of binary attributes.

    Attributes:
        attributes: their names. trunk, heads: the networks.
    """

    def __init__(self, module: MultiTask) -> None:
        self.attributes, self.trunk, self.heads = list(module.attributes), module.trunk.eval(), module.heads.eval()

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """(B, attributes), of images as the data module gives them."""
        return self.heads(self.trunk(images))


def load(folder: Path, config: Mapping[str, Any]) -> Solution | Classifier:
    """What ``PINN.export`` or ``MultiTask.export`` has written."""
    state = trained.state_of(folder)
    if "network" in state:
        return Solution(state, config["module"]["dataset"])
    options = {key: value for key, value in config["module"].items() if key != "_target_"}
    module = locate(config["module"]["_target_"])(**options)
    if not isinstance(module, MultiTask):
        raise DataError(f"{folder} is of no task that this version knows")
    module.trunk.load_state_dict(state["trunk"])
    module.heads.load_state_dict(state["heads"])
    return Classifier(module)
