"""Latin hypercubes and walls."""

import torch

from decathlon.equations.sampling import generator, grid, latin_hypercube, on_edges, on_value, on_walls, split

BOX = ((-1.0, 1.0), (0.0, 0.5), (2.0, 5.0))


def test_every_stratum_of_every_axis_holds_one_point() -> None:
    for count in (1, 7, 1000, 20000):
        points = latin_hypercube(BOX, count, generator(count))
        assert points.shape == (count, 3)
        for axis, (low, high) in zip(points.t(), BOX):
            strata = torch.floor((axis - low) / (high - low) * count).long().sort().values
            assert torch.equal(strata, torch.arange(count))


def test_points_differ_between_steps_and_repeat_for_the_same_key() -> None:
    first, again, other = (latin_hypercube(BOX, 50, generator(*key)) for key in ((3, 4, 0), (3, 4, 0), (4, 3, 0)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_neighbouring_keys_are_unrelated() -> None:
    draws = torch.stack([torch.rand(400, generator=generator(0, step)) for step in range(40)])
    correlation = torch.corrcoef(draws) - torch.eye(40)
    assert correlation.abs().max() < 0.25


def test_walls_share_the_points_by_their_length() -> None:
    box = ((-0.5, 1.0), (-0.5, 1.5))
    points = on_walls(box, [1, 0], 1000, generator(0))
    for axis, number in ((1, 428), (0, 572)):
        for side in box[axis]:
            assert int((points[:, axis] == side).sum()) == number // 2
    assert len(points) == 1000


def test_time_is_no_wall() -> None:
    points = on_walls(((-1.0, 1.0), (0.0, 1.0)), [0], 251, generator(0))
    assert (points[:, 0].abs() == 1).all() and points[:, 1].unique().numel() == 251


def test_edges_pin_all_axes_but_one() -> None:
    box = ((-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0), (0.0, 1.0))
    points = on_edges(box, [0, 1, 2], 600, generator(0))
    pinned = points[:, :3].abs() == 1
    assert (pinned.sum(1) == 2).all()
    assert [int((~pinned[:, axis]).sum()) for axis in range(3)] == [200, 200, 200]
    corners = {tuple(point.sign().tolist()) for point in points[:200, 1:3]}
    assert len(corners) == 4  # every edge along x


def test_small_helpers() -> None:
    assert split(10, [1, 1, 1]) == [3, 3, 4] and sum(split(1000, [1.5, 2.0])) == 1000
    assert on_value(BOX, 1, 0.0) == [(-1.0, 1.0), (0.0, 0.0), (2.0, 5.0)]
    assert grid(torch.arange(2), torch.arange(3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
