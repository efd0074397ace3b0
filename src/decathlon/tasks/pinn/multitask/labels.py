"""Names of the binary attributes of the multi-task benchmarks, and the rules of the digit ones."""

from collections.abc import Callable

import torch
from torch import Tensor

Rule = Callable[[Tensor, Tensor], Tensor]


def _among(*digits: int) -> Callable[[Tensor], Tensor]:
    table = torch.tensor(digits)
    return lambda digit: torch.isin(digit, table)


_LOOP, _STRAIGHT, _PRIME_SUM = _among(0, 6, 8, 9), _among(1, 4, 7), _among(2, 3, 5, 7, 11, 13, 17)


def _left(k: int) -> Rule:
    return lambda left, right: left == k


def _right(k: int) -> Rule:
    return lambda left, right: right == k


DIGIT_RULES: dict[str, Rule] = {
    **{f"left_is_{k}": _left(k) for k in (0, 3, 5, 8)},
    **{f"right_is_{k}": _right(k) for k in (0, 3, 5, 8)},
    "left_greater": lambda left, right: left > right,
    "sum_ge_10": lambda left, right: left + right >= 10,
    "right_has_loop": lambda left, right: _LOOP(right),
    "right_is_straight": lambda left, right: _STRAIGHT(right),
    # The twelve of the standard benchmark end here.
    **{f"left_is_{k}": _left(k) for k in (1, 2, 4, 6, 7, 9)},
    **{f"right_is_{k}": _right(k) for k in (1, 2, 4, 6, 7, 9)},
    "left_is_even": lambda left, right: left % 2 == 0,
    "right_is_even": lambda left, right: right % 2 == 0,
    "equal": lambda left, right: left == right,
    "sum_is_odd": lambda left, right: (left + right) % 2 == 1,
    "difference_le_1": lambda left, right: (left - right).abs() <= 1,
    "product_by_3": lambda left, right: (left * right) % 3 == 0,
    "left_has_loop": lambda left, right: _LOOP(left),
    "left_is_straight": lambda left, right: _STRAIGHT(left),
    "sum_is_prime": lambda left, right: _PRIME_SUM(left + right),
    "difference_ge_5": lambda left, right: (left - right).abs() >= 5,
    "left_lt_5": lambda left, right: left < 5,
    "right_lt_5": lambda left, right: right < 5,
    "product_ge_20": lambda left, right: left * right >= 20,
    "both_have_loops": lambda left, right: _LOOP(left) & _LOOP(right),
    "sum_ge_14": lambda left, right: left + right >= 14,
    "same_parity_greater": lambda left, right: ((left - right) % 2 == 0) & (left > right),
}
"""name -> (left digit, right digit) -> bool; the first twelve are the standard benchmark."""


def digit_attributes(count: int) -> list[str]:
    """The first ``count`` names.

    Raises:
        ValueError: there are not so many.
    """
    if not 1 <= count <= len(DIGIT_RULES):
        raise ValueError(f"tasks={count} must be from 1 to {len(DIGIT_RULES)}")
    return list(DIGIT_RULES)[:count]


CELEBA_ATTRIBUTES = [
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
]
"""The forty columns of list_attr_celeba.txt, in its order."""


def celeba_attributes(count: int) -> list[str]:
    """The first ``count`` names.

    Raises:
        ValueError: there are not so many.
    """
    if not 1 <= count <= len(CELEBA_ATTRIBUTES):
        raise ValueError(f"tasks={count} must be from 1 to {len(CELEBA_ATTRIBUTES)}")
    return CELEBA_ATTRIBUTES[:count]
