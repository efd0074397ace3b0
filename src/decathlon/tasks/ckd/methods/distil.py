"""Methods with teachers: counterfactual knowledge distillation and its ablations, and UMT."""

from torch import Tensor

from decathlon.tasks.ckd.distillation import CounterfactualDistillation
from decathlon.tasks.ckd.methods.base import Logs, Method
from decathlon.tasks.ckd.teachers import KINDS
from decathlon.tasks.ckd.training import Step


class CKD(Method):
    """Counterfactual knowledge distillation (arXiv 2408.06360): see :class:`CounterfactualDistillation`.

    Args:
        alpha, beta, temperature, reweight, specific, generic, cross_entropy: of the distillation.
        teachers: ``uni``: one for each modality; ``joint``: one model with all modalities teaches each (the ablation
            without uni-modal teachers); ``random``: untrained ones, a control.
    """

    least = 1

    def __init__(
        self, alpha: float = 0.01, beta: float = 5.0, temperature: float = 0.1, reweight: bool = True,
        specific: bool = True, generic: bool = True, cross_entropy: str = "logits", teachers: str = "uni",
    ) -> None:  # fmt: skip
        super().__init__()
        if teachers not in KINDS:
            raise ValueError(f"teachers={teachers} is unknown; choose {', '.join(KINDS)}")
        self.teachers = teachers
        self.distil = CounterfactualDistillation(alpha, beta, temperature, reweight, specific, generic, cross_entropy)

    def loss(self, step: Step) -> tuple[Tensor, Logs]:
        joint, alone = step.difference(), step.alone()
        generic, taught = None, None
        if self.distil.generic:
            generic, taught = step.generic_alone(), step.taught(generic=True)
        without = step.without() if len(alone) > 2 and self.distil.reweight else None
        term = self.distil(joint, alone, step.taught(), generic, taught, without)
        loss = step.base_loss() + term
        logs = {"loss": loss.detach(), "distillation": term.detach(), **self.distil.parts}
        logs |= {f"weight/{name}": weight.mean() for name, weight in self.distil.weights.items()}
        return loss, logs


class UMT(Method):
    """Uni-modal teachers (Du et al. 2021): the vectors of each modality alone are drawn to its teacher's.

    Args:
        strength: of the mean square differences, over the batch's users and items, summed over modalities.
    """

    teachers = "uni"
    least = 1

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        if not strength >= 0:
            raise ValueError(f"strength={strength} must not be negative")
        self.strength = strength

    def loss(self, step: Step) -> tuple[Tensor, Logs]:
        loss = step.base_loss()
        user, positive, negative = step.triples
        for name, (users, items) in step.teachers.items():
            own_users, own_items = step.views((name,))
            loss = loss + self.strength * (own_users[user] - users[user]).square().mean()
            for chosen in (positive, negative):
                loss = loss + self.strength / 2 * (own_items[chosen] - items[chosen]).square().mean()
        return loss, {"loss": loss.detach()}
