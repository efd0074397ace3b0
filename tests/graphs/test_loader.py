"""A loader goes on in the middle of an epoch."""

import torch

from decathlon.graphs.loader import BatchLoader


class Sampler:
    epoch = 0


def test_a_loader_goes_on_in_the_middle_of_an_epoch() -> None:
    sampler = Sampler()

    def loader() -> BatchLoader:
        order = torch.arange(10) + 100 * sampler.epoch
        return BatchLoader(lambda rows: rows, lambda: list(order.split(3)), lambda: 4, sampler)  # type: ignore[arg-type, return-value]

    first = loader()
    batches = iter(first)
    next(batches), next(batches)
    state = first.state_dict()
    resumed = loader()
    resumed.load_state_dict(state)
    assert [batch.tolist() for batch in resumed] == [[6, 7, 8], [9]]
    assert len([*resumed]) == 4  # the next iteration is a whole one
    resumed.load_state_dict(state)
    sampler.epoch = 1
    assert len([*resumed]) == 4  # the state of another epoch says nothing about this one
