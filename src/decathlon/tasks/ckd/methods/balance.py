"""Methods that balance modalities without teachers, stated for the pairwise ranking loss."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from decathlon.randomness import generator
from decathlon.recommendation.samplers import Triples
from decathlon.tasks.ckd.backbones.base import Backbone
from decathlon.tasks.ckd.methods.base import Logs, Method
from decathlon.tasks.ckd.training import Step

if TYPE_CHECKING:
    from decathlon.tasks.ckd.training import Training


class Auxiliary(Method):
    """The joint loss plus the ranking loss of each modality alone.

    Args:
        weight: of each of them.
    """

    least = 1

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight={weight} must not be negative")
        self.weight = weight

    def loss(self, step: Step) -> tuple[Tensor, Logs]:
        loss = step.base_loss()
        for name in step.modalities:
            loss = loss + self.weight * step.ranking_loss((name,))
        return loss, {"loss": loss.detach()}


class ModalityDropout(Method):
    """In each step each modality is counterfactual with probability ``p``, but never all of them."""

    least = 1

    def __init__(self, p: float = 0.3) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p={p} must be at least 0 and below 1")
        self.p = p

    def loss(self, step: Step) -> tuple[Tensor, Logs]:
        names = step.modalities
        random = generator("modality dropout", step.seed, step.number)
        kept = torch.rand(len(names), generator=random) >= self.p
        if not bool(kept.any()):
            kept[torch.randint(len(names), (1,), generator=random)] = True
        loss = step.base_loss(tuple(name for name, stays in zip(names, kept.tolist()) if stays))
        return loss, {"loss": loss.detach()}


class ModalityRates(Method):
    """MSLR (Yao and Mihalcea 2022): a modality's own parameters have the learning rate that was best for it alone.

    Args:
        factors: the learning rates tried for each modality's model, times the joint one. The best by validation is
            taken; the models are cached like teachers.
    """

    least = 1

    def __init__(self, factors: list[float] | tuple[float, ...] = (0.3333, 1.0, 3.0)) -> None:
        super().__init__()
        if not factors or min(factors) <= 0:
            raise ValueError(f"factors={list(factors)} must be positive numbers")
        self.factors = tuple(float(factor) for factor in factors)
        self.chosen: dict[str, float] = {}

    def parameter_groups(self, backbone: Backbone, lr: float) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": [p for p in backbone.shared() if p.requires_grad]}]
        for name in backbone.modalities:
            own = [p for p in backbone.own(name) if p.requires_grad]
            groups.append({"params": own, "lr": lr * self.chosen[name]})
        return [group for group in groups if group["params"]]

    def state_dict(self) -> dict[str, Any]:
        return {"chosen": dict(self.chosen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.chosen = dict(state["chosen"])


class GradientModulation(Method):
    """OGM-GE (Peng et al., CVPR 2022): slows the modalities that are ahead, and adds noise.

    With c_m the sum over the batch of sigmoid(D_m) and rho_m = c_m / (mean of the others' c), the gradient of m's own
    parameters is multiplied by 1 - tanh(strength * rho_m) where rho_m > 1.

    Args:
        strength: of the modulation, 0.1 to 0.8. noise: add Gaussian noise of the gradient's own standard deviation
            (generalisation enhancement; OGM without).
    """

    least = 2

    def __init__(self, strength: float = 0.3, noise: bool = True) -> None:
        super().__init__()
        if not strength >= 0:
            raise ValueError(f"strength={strength} must not be negative")
        self.strength, self.noise = strength, noise

    def backward(self, step: Step, backward: Callable[[Tensor], Any]) -> Logs:
        logs = super().backward(step, backward)
        with torch.no_grad():
            score = torch.stack([values.sigmoid().sum() for values in step.alone().values()])
            rival = (score.sum() - score) / (len(score) - 1)
            ratio = score / rival
            factor = torch.where(ratio > 1, 1 - torch.tanh(self.strength * ratio), 1.0)
            random = generator("gradient noise", step.seed, step.number)
            for name, slow in zip(step.modalities, factor):
                for parameter in step.backbone.own(name):
                    if parameter.grad is None:
                        continue
                    parameter.grad.mul_(slow)
                    if self.noise and parameter.numel() > 1:
                        drawn = torch.randn(parameter.shape, generator=random).to(parameter.grad)
                        parameter.grad.add_(drawn * parameter.grad.std())
                logs[f"modulation/{name}"] = slow
        return logs


class GradientBlending(Method):
    """Gradient blending (Wang et al., CVPR 2020): joint and uni-modal losses, by gain over overfitting squared.

    Every ``period`` epochs the losses on training and on validation triples are measured; the drop of a loss on
    validation is its gain, the growth of its gap its overfitting. Weights sum to 1. (The paper measures copies of the
    model trained apart; here the model itself is measured.)
    """

    least = 1

    def __init__(self, period: int = 10, triples: int = 4096) -> None:
        super().__init__()
        if period < 1 or triples < 1:
            raise ValueError(f"period={period} and triples={triples} must be at least 1")
        self.period, self.triples = period, triples
        self.weights: Tensor | None = None
        self.before: Tensor | None = None

    def begin_epoch(self, epoch: int, training: "Training") -> None:
        if epoch % self.period:
            return
        now = self._measure(training)
        if self.before is not None:
            gain = (self.before[1] - now[1]).clamp(min=0)
            overfit = (now[1] - now[0]) - (self.before[1] - self.before[0])
            weight = gain / overfit.square().clamp(min=1e-8)
            if float(weight.sum()) > 0:  # else nothing has gained: the weights stay
                self.weights = weight / weight.sum()
        self.before = now

    @torch.no_grad()
    def _measure(self, training: "Training") -> Tensor:
        """(2, 1 + M): losses of all modalities and of each alone, on training and on validation triples."""
        training.backbone.eval()
        found = []
        for lists in (training.sampler.lists, training.val):
            random = generator("blending", training.seed, self.triples)
            rows = torch.randint(len(lists.item), (self.triples,), generator=random)
            user, positive = lists.user[rows], lists.item[rows]
            allowed = training.sampler.negatives.free[user] > 0
            user, positive = user[allowed], positive[allowed]
            triples = Triples(user, positive, training.sampler.negatives.of(user, random))
            step = training.probe(0, triples)
            views = [None, *((name,) for name in step.modalities)]
            found.append(torch.stack([step.ranking_loss(keep) for keep in views]).double().cpu())
        return torch.stack(found)

    def loss(self, step: Step) -> tuple[Tensor, Logs]:
        names = step.modalities
        if self.weights is None:
            self.weights = torch.full((1 + len(names),), 1 / (1 + len(names)), dtype=torch.float64)
        first, *rest = self.weights.tolist()
        loss = first * step.base_loss()
        for name, weight in zip(names, rest):
            loss = loss + weight * step.ranking_loss((name,))
        return loss, {"loss": loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "before": self.before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights, self.before = state["weights"], state["before"]


class MMPareto(Method):
    """MMPareto (Wei and Hu, ICML 2024): for a modality's own part a direction good for joint and own loss.

    With g the gradient of the joint loss and h that of the modality's own, n = 2 a g + 2 (1 - a) h, where a is 1/2 if
    they agree and otherwise that of the shortest combination; each tensor's gradient is n, lengthened to that of g + h
    at least, times 1.5. The shared part gets the sum of all gradients.
    """

    least = 1
    rescale = 1.5

    def backward(self, step: Step, backward: Callable[[Tensor], Any]) -> Logs:
        backbone = step.backbone
        parameters = [p for p in backbone.parameters() if p.requires_grad]
        losses = [step.base_loss(), *(step.ranking_loss((name,)) for name in step.modalities)]
        grads = [
            torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
            for loss in losses
        ]
        place = {id(p): index for index, p in enumerate(parameters)}
        for index, parameter in enumerate(parameters):
            parameter.grad = torch.stack([grad[index] for grad in grads]).sum(0)
        for name, alone in zip(step.modalities, grads[1:]):
            own = [p for p in backbone.own(name) if p.requires_grad]
            if own:
                indices = [place[id(p)] for p in own]
                combined = pareto([grads[0][i] for i in indices], [alone[i] for i in indices], self.rescale)
                for parameter, grad in zip(own, combined):
                    parameter.grad = grad
        return {"loss": losses[0].detach()}


def pareto(joint: list[Tensor], alone: list[Tensor], rescale: float = 1.5) -> list[Tensor]:
    """The gradients of :class:`MMPareto` from those of the joint and the uni-modal loss, tensor by tensor."""
    g, h = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (joint, alone))
    share = torch.tensor(0.5, device=g.device)
    if float(functional.cosine_similarity(g, h, dim=0)) <= 0:
        share = ((h @ (h - g)) / (g - h).square().sum().clamp(min=1e-30)).clamp(0.001, 0.999)
    found = []
    for one, other in zip(joint, alone):
        n = 2 * share * one + 2 * (1 - share) * other
        longer = (one + other).norm() / n.norm().clamp(min=1e-30)
        found.append(rescale * longer.clamp(min=1.0) * n)
    return found
