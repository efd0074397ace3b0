"""Several copies of one small network, trained in one process: weights stacked and called by torch.func."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state


class Stack(nn.Module):
    """``Stack([net_0, net_1, ...])(x, ...)`` runs every net on its own slice of each argument, dimension 0.

    The modules must have one architecture, and a forward that takes weights and arguments with one more dimension in
    front, as :class:`~.network.JRegNet` does. (vmap would do without; for networks of this size it costs more than
    the layers.) Parameters are those of the modules, stacked in front; an optimizer that works elementwise (Adam) then
    trains each as if it were alone. Arguments are tensors or None.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        stacked, _ = stack_module_state(list(modules))
        self.names = list(stacked)
        self.stacked = nn.ParameterList([nn.Parameter(stacked[name].detach()) for name in self.names])
        self._template = [copy.deepcopy(modules[0]).requires_grad_(False)]  # in a list: not a submodule

    def forward(self, *args: Tensor | None, detach: bool = False, **options: Any) -> Any:
        """The outputs, stacked; with ``detach`` no gradient flows to the parameters."""
        weights = {name: w.detach() if detach else w for name, w in zip(self.names, self.stacked)}
        return functional_call(self._template[0], weights, args, options)

    def single(self, place: int) -> nn.Module:
        """A copy of the module at ``place`` with its present weights, ready for inference."""
        module = copy.deepcopy(self._template[0])
        module.load_state_dict({name: w[place].detach().clone() for name, w in zip(self.names, self.stacked)})
        return module.to(self.stacked[0].device)

    def _apply(self, fn: Any, recurse: bool = True) -> "Stack":
        self._template[0]._apply(fn)  # buffers of the template follow .to(device)
        return super()._apply(fn, recurse)


@torch.no_grad()
def gradient_norms(parameters: Sequence[Tensor]) -> Tensor:
    """(S,) norm of the gradient of each stacked copy."""
    squares = [p.grad.flatten(1).square().sum(1) for p in parameters if p.grad is not None]
    return torch.stack(squares).sum(0).sqrt()
