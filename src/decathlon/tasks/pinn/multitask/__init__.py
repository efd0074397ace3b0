"""Multi-task classification of attributes: a shared trunk under any method of this paper."""

from decathlon.tasks.pinn.multitask.celeba import CelebA
from decathlon.tasks.pinn.multitask.digits_overlay import DigitsOverlay
from decathlon.tasks.pinn.multitask.module import CelebAMultiTask, DigitsMultiTask

__all__ = ["CelebA", "CelebAMultiTask", "DigitsMultiTask", "DigitsOverlay"]
