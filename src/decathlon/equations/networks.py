"""Networks that stand for the solution of a differential equation."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected tanh network with a linear output, initialised as in the ConFIG benchmark.

    Weights are Xavier normal with gain 1, biases 0.001. Inputs are taken as they are, unless ``input_scale`` says
    otherwise.

    Args:
        inputs, outputs: number of coordinates and of fields.
        width: units of each hidden layer.
        hidden: number of hidden layers.
        output_bias: whether the last layer has a bias.
        input_scale: factor for each input, or None.
    """

    input_scale: Tensor | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 50,
        hidden: int = 5,
        output_bias: bool = True,
        input_scale: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if min(inputs, outputs, width, hidden) < 1:
            raise ValueError("MLP needs at least one input, output, unit and hidden layer")
        if input_scale is not None and len(input_scale) != inputs:
            raise ValueError(f"input_scale has {len(input_scale)} factors, the network {inputs} inputs")
        sizes = [inputs, *[width] * hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(width, outputs, bias=output_bias)
        scale = None if input_scale is None else torch.tensor(list(input_scale), dtype=torch.get_default_dtype())
        self.register_buffer("input_scale", scale, persistent=False)
        for layer in self.linear_layers():
            nn.init.xavier_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, 0.001)

    def linear_layers(self) -> list[nn.Linear]:
        """The linear layers in order; tanh stands between them."""
        return [layer for layer in [*self.hidden, self.head] if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        """(points, inputs) -> (points, outputs)."""
        if self.input_scale is not None:
            x = x * self.input_scale
        for layer in self.hidden:
            x = torch.tanh(layer(x))
        return self.head(x)


class Transformed(nn.Module):
    """A network whose output goes through a function of point and output: conditions that hold exactly.

    ``Transformed(MLP(1, 1), lambda x, u: x * (1 - x) * u)`` vanishes at 0 and at 1.

    Args:
        network: (points, coordinates) -> (points, n).
        transform: (points, coordinates), (points, n) -> (points, fields); smooth.
    """

    def __init__(self, network: nn.Module, transform: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.transform = network, transform

    def forward(self, x: Tensor) -> Tensor:
        """(points, coordinates) -> (points, fields)."""
        return self.transform(x, self.network(x))
