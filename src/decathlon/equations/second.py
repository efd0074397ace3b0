"""The reverse pass of a tanh network's jet as a graph, for gradients of gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from decathlon.equations.jet import JetPlan
from decathlon.equations.nested import exact_derivatives


def nested_gradients(
    plan: JetPlan, inputs: Sequence[Tensor], needed: Sequence[bool], gradient: Tensor
) -> list[Tensor | None]:
    """The gradients of a jet from torch's own operations, so that they can be differentiated or batched again.

    The pass by hand knows nothing of the gradient's own derivatives: with it a second gradient would be wrong.

    Args:
        plan: of the jet.
        inputs: points, weights and biases, as ``taylor_mlp`` has them.
        needed: which of them need a gradient.
        gradient: by the jet, (outputs, components, points).

    Returns:
        A gradient for each input, None where none is needed.
    """
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # A tensor that is passed twice needs a gradient for each place.
        x, *parameters = (part.view_as(part) if need else part.detach() for part, need in zip(inputs, needed))
        depth = len(parameters) // 2
        weights, biases = parameters[:depth], parameters[depth:]

        def network(points: Tensor) -> Tensor:
            for weight, bias in zip(weights[:-1], biases[:-1]):
                points = torch.tanh(torch.addmm(bias, points, weight.t()))
            return torch.addmm(biases[-1], points, weights[-1].t())

        value, named = exact_derivatives(network, x, plan.requests())
        jet = torch.stack([value, *named.values()], dim=1)
        wanted = [part for part, need in zip([x, *parameters], needed) if need]
        found = iter(
            torch.autograd.grad(jet, wanted, gradient, create_graph=graph, allow_unused=True, materialize_grads=True)
        )
    return [next(found) if need else None for need in needed]
