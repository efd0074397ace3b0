"""Which derivatives one Taylor pass carries along, and where."""

from dataclasses import dataclass

from decathlon.equations.nested import Requests

Quadratic = tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class JetPlan:
    """Which derivatives a jet carries, in the order of its components: value, first, quadratic, pure higher.

    Attributes:
        axes: input axes whose first derivatives are carried.
        quadratics: second-order operators ``sum c (d/d axes[i]) (d/d axes[j])`` as triples ``(i, j, c)``; positions
            ``i <= j`` refer to ``axes``. A pure second derivative is ``((i, i, 1.0),)``.
        towers: for every axis with derivatives of order above two, its position in ``axes``, the position in
            ``quadratics`` of its pure second derivative, and the highest order.
    """

    axes: tuple[int, ...]
    quadratics: tuple[Quadratic, ...] = ()
    towers: tuple[tuple[int, int, int], ...] = ()

    @property
    def components(self) -> int:
        """How many numbers the jet holds for each point and unit."""
        return 1 + len(self.axes) + len(self.quadratics) + sum(order - 2 for _, _, order in self.towers)

    def requests(self) -> Requests:
        """What the components after the first are, as derivatives by the input axes."""
        found: list[tuple[tuple[tuple[int, ...], float], ...]] = [(((axis,), 1.0),) for axis in self.axes]
        for form in self.quadratics:
            found.append(tuple((tuple(sorted((self.axes[i], self.axes[j]))), c) for i, j, c in form))
        for axis, _, order in self.towers:
            found += [(((self.axes[axis],) * n, 1.0),) for n in range(3, order + 1)]
        return tuple((str(component), terms) for component, terms in enumerate(found, start=1))

    def ladders(self) -> list[list[int]]:
        """For every tower the components that hold its orders 0, 1, ..., highest."""
        start, ladders = 1 + len(self.axes) + len(self.quadratics), []
        for axis, second, order in self.towers:
            ladder = [0, 1 + axis, 1 + len(self.axes) + second, *range(start, start + order - 2)]
            start += order - 2
            ladders.append(ladder)
        return ladders
