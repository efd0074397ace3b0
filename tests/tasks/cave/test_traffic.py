"""Car following, contact times, links, and traces of a user's own."""

import itertools
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from decathlon.errors import DataError
from decathlon.tasks.cave import steady, streams
from decathlon.tasks.cave.simulator.channel import PRESETS, Radio, Shadowing, link_rate, path_loss
from decathlon.tasks.cave.simulator.traces import Replay, read_trace
from decathlon.tasks.cave.simulator.traffic import Ring, contact_time


def test_functions_agree_with_torch_and_do_not_depend_on_the_place() -> None:
    x = torch.linspace(-700, 700, 20_001, dtype=torch.float64)
    torch.testing.assert_close(steady.exp(x), x.exp(), rtol=1e-14, atol=0)
    y = steady.exp(x / 10)
    torch.testing.assert_close(steady.log(y), y.log(), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(steady.normal_cdf(x / 100), torch.special.ndtr(x / 100), rtol=0, atol=1e-12)
    u = torch.linspace(1e-7, 1 - 1e-7, 20_001, dtype=torch.float64)
    torch.testing.assert_close(steady.normal_quantile(u), torch.special.ndtri(u), rtol=1e-7, atol=1e-8)
    odd = torch.tensor([0.0, math.inf, -1.0, math.nan], dtype=torch.float64)
    assert steady.log(odd).tolist()[:2] == [-math.inf, math.inf] and steady.log(odd)[2:].isnan().all()
    assert steady.exp(torch.tensor([-800.0, 800.0])).tolist() == [0.0, math.inf]
    for function, values in ((steady.exp, x), (steady.log, y), (steady.normal_cdf, x), (steady.normal_quantile, u)):
        whole = function(values)
        for place in (0, 1, 63, 9_999, 20_000):
            assert torch.equal(function(values[place : place + 1]), whole[place : place + 1])
        assert torch.equal(function(values.flip(0)), whole.flip(0))


def test_idm_reaches_its_equilibrium_and_never_collides() -> None:
    # Everyone wants 30 m/s; 25 vehicles/km leave 40 m per vehicle, 35.5 m of gap.
    ring = Ring(length=1.0, density=25.0, spread=0.0, warmup=0.0)
    traffic = ring.begin(torch.arange(1), 0.1, 0.0)
    for _ in range(6000):
        traffic.advance()
    v = float(traffic.speed.mean())
    assert float(traffic.speed.max() - traffic.speed.min()) < 1e-2 * v
    assert (2 + 1.5 * v) / math.sqrt(1 - (v / 30) ** 4) == pytest.approx(1000 / 25 - 4.5, rel=0.01)
    free = Ring(length=4.0, density=1.0, spread=0.0, warmup=300.0).begin(torch.arange(1), 0.1, 0.0)
    assert float(free.speed.min()) == pytest.approx(30, rel=0.01)


def test_dense_traffic_has_no_overlap_and_no_negative_speed() -> None:
    ring = Ring(length=2.0, density=40.0, warmup=0.0)
    traffic = ring.begin(torch.arange(2), 0.1, 0.0)
    vehicles = traffic.place.shape
    for _ in range(6000):
        traffic.advance()
        assert float(traffic.speed.min()) >= 0
        gap = (traffic.place.roll(-1, 2) - traffic.place) % traffic.metres
        assert float(gap.min()) > 4.5
    assert traffic.place.shape == vehicles and float(traffic.place.max()) < traffic.metres


def test_contact_time_is_the_closed_form() -> None:
    g = torch.Generator().manual_seed(0)
    dx, dy, dv = ((torch.rand(500, generator=g, dtype=torch.float64) - 0.5) * size for size in (480, 40, 120))
    tau = contact_time(dx, dy, dv, torch.zeros_like(dv), 250.0, 1e9)
    half = (250.0**2 - dy * dy).sqrt()
    torch.testing.assert_close(tau, (half - dx * dv.sign()) / dv.abs(), rtol=1e-9, atol=1e-9)
    moved = dx + tau * dv
    torch.testing.assert_close((moved * moved + dy * dy).sqrt(), torch.full_like(dx, 250.0), rtol=1e-9, atol=0)
    one = torch.ones(1, dtype=torch.float64)
    assert float(contact_time(0 * one, one, 0 * one, 0 * one, 250.0)) == 60.0
    assert float(contact_time(300 * one, one, -one, 0 * one, 250.0)) == 0.0
    approaching, receding = (float(contact_time(200 * one, 12 * one, v * one, 0 * one, 250.0)) for v in (-60.0, 60.0))
    assert approaching > 7 and receding < 1


def test_opposite_vehicles_stay_as_long_as_the_geometry_says() -> None:
    ring = Ring(length=4.0, density=0.25, spread=0.0, follow=False, lanes=1, warmup=0.0)
    traffic = ring.begin(torch.arange(1), 0.01, 0.0)
    inside = []
    for _ in range(15_000):
        dx, dy, *_ = traffic.relative()
        inside.append(bool(dx[0, 0].square() + dy[0, 0].square() <= 250.0**2))
        traffic.advance()
    outside = [place for place, here in enumerate(inside) if not here]
    inside = inside[outside[0] : outside[-1] + 1]  # whole passes only
    dwell = sum(inside) * 0.01
    passes = sum(1 for before, after in itertools.pairwise(inside) if after and not before)
    assert passes >= 1
    assert dwell / passes == pytest.approx(2 * math.sqrt(250.0**2 - 8.0**2) / 60.0, rel=0.02)


def test_path_loss_rate_and_shadowing() -> None:
    d = torch.tensor([100.0, 200.0], dtype=torch.float64)
    loss = path_loss(d, 5.9)
    assert float(loss[0]) == pytest.approx(87.8, abs=0.1) and float(loss[1] - loss[0]) == pytest.approx(6.02, abs=0.01)
    radio = Radio()
    far = torch.linspace(1, 5000, 500, dtype=torch.float64)
    rate = link_rate(radio, far, torch.zeros_like(far))
    assert (rate[1:] <= rate[:-1]).all() and float(rate[0]) == pytest.approx(74.0)
    snr = radio.power + 2 * radio.gain - float(path_loss(far[-1:], 5.9)[0]) - radio.noise
    assert float(rate[-1]) == pytest.approx(10 * min(7.4, 0.75 * math.log2(1 + 10 ** (snr / 10))), rel=1e-9)
    assert float(link_rate(PRESETS["80211p"], far[:1], torch.zeros(1))) == pytest.approx(27.0)
    shadow = Shadowing(streams.key(torch.arange(50), 0), torch.arange(40).expand(50, -1), 3.0, 25.0)
    steps = [shadow.advance(torch.full((50, 40), 5.0).double(), tick).clone() for tick in range(60)]
    values = torch.stack(steps)
    assert float(values.std()) == pytest.approx(3.0, rel=0.05)
    pairs = torch.stack([values[1:].flatten(), values[:-1].flatten()])
    assert float(torch.corrcoef(pairs)[0, 1]) == pytest.approx(math.exp(-5 / 25), rel=0.05)


def two_lanes(path: Path, seconds: int = 20, step: float = 0.5) -> pd.DataFrame:
    """Six vehicles side by side in two directions, at constant speeds."""
    rows = []
    for tick in range(int(seconds / step) + 1):
        time = tick * step
        for number in range(6):
            sign = 1 if number < 3 else -1
            rows.append((time, f"car{number}", 60.0 * number + sign * 20.0 * time, 4.0 * number, 20.0))
    table = pd.DataFrame(rows, columns=["time", "id", "x", "y", "speed"])
    table.to_csv(path, index=False)
    return table


def test_a_trace_is_replayed_where_it_was_recorded(tmp_path: Path) -> None:
    two_lanes(tmp_path / "a.csv")
    state = read_trace(tmp_path / "a.csv")
    assert state["frames"].shape == (41, 6, 4) and float(state["step"]) == 0.5 and int(state["refused"]) == 0
    replay = Replay(state["frames"], 0.5)
    traffic = replay.begin(torch.tensor([0, 1, 2]), 0.1, 5.0)
    for _ in range(13):
        traffic.advance()
    dx, _, dvx, dvy, speed = traffic.relative()
    assert dx.isfinite().all() and speed.unique().tolist() == [20.0] and (dvy == 0).all()
    assert set(dvx.abs().unique().tolist()) == {0.0, 40.0}
    assert (dx[dvx == 0] % 60).abs().max() < 1e-3  # those of one direction keep their distance
    same, _ = (replay.begin(torch.tensor(ids), 0.1, 5.0).relative()[0] for ids in ([2], [0, 2]))
    assert torch.equal(same[0], replay.begin(torch.tensor([0, 2]), 0.1, 5.0).relative()[0][1])
    with pytest.raises(DataError, match="no vehicle stays for 100 s, the longest for 20 s"):
        replay.begin(torch.tensor([0]), 0.1, 100.0)


def test_the_highway_and_its_recorded_trace_look_alike(tmp_path: Path) -> None:
    traffic = Ring(warmup=5.0).begin(torch.tensor([4]), 0.1, 0.0)
    rows, seen, travelled = [], [], 0.0
    for tick in range(30):
        dx, dy, dvx, _, speed = traffic.relative()
        ego = float(traffic.speed.flatten(1)[0, traffic.ego])
        rows.append((tick / 10, "-1", travelled, 0.0, ego))
        rows += [
            (tick / 10, str(int(i)), travelled + float(x), float(y), float(v))
            for i, x, y, v in zip(traffic.ids[0], dx[0], dy[0], speed[0])
            if abs(x) < 500
        ]
        seen.append(
            {int(i): (float(x), float(y), float(v)) for i, x, y, v in zip(traffic.ids[0], dx[0], dy[0], dvx[0])}
        )
        travelled += ego * 0.1
        traffic.advance()
    pd.DataFrame(rows, columns=["time", "id", "x", "y", "speed"]).to_parquet(tmp_path / "t.parquet")
    frames = read_trace(tmp_path / "t.parquet")["frames"]
    names = sorted({row[1] for row in rows})
    replay = Replay(frames, 0.1)
    ego, others, ids = replay._window(0, names.index("-1"), 25)
    from decathlon.tasks.cave.simulator.traces import ReplayTraffic

    replayed = ReplayTraffic([(ego, others, ids)], 0.1, 0.1, torch.device("cpu"))
    for tick in range(20):
        dx, dy, dvx, _, _ = replayed.relative()
        for place, number in enumerate(ids.tolist()):
            x, y, v = seen[tick][int(names[number])]
            if abs(x) < 300:
                assert float(dx[0, place]) == pytest.approx(x, abs=0.3) and float(dy[0, place]) == pytest.approx(y)
                assert float(dvx[0, place]) == pytest.approx(v, abs=0.1)
        replayed.advance()


def test_other_peoples_columns_are_understood(tmp_path: Path) -> None:
    table = two_lanes(tmp_path / "a.csv")
    ours = read_trace(tmp_path / "a.csv")["frames"]
    sumo = table.rename(
        columns=dict(time="timestep_time", id="vehicle_id", x="vehicle_x", y="vehicle_y", speed="vehicle_speed")
    )
    sumo.to_csv(tmp_path / "sumo.csv", sep=";", index=False)
    assert torch.equal(read_trace(tmp_path / "sumo.csv")["frames"].nan_to_num(), ours.nan_to_num())
    ngsim = pd.DataFrame(
        {
            "Vehicle_ID": table.id, "Global_Time": 1118846980200 + 1000 * table.time, "Local_X": table.y / 0.3048,
            "Local_Y": table.x / 0.3048, "v_Vel": table.speed / 0.3048,
        }
    )  # fmt: skip
    ngsim.to_csv(tmp_path / "ngsim.csv", index=False)
    torch.testing.assert_close(read_trace(tmp_path / "ngsim.csv")["frames"], ours, equal_nan=True)
    half = read_trace(tmp_path / "a.csv", start=5.0, end=10.0)["frames"]
    torch.testing.assert_close(half, ours[10:21], equal_nan=True)


def test_every_malformed_row_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    two_lanes(tmp_path / "a.csv")
    bad = [
        "1,2",
        "1.0,car0,abc,0,20",
        "1.0,car0,nan,0,20",
        "2.0,,0,0,20",
        "2.0,car1,0,0,-3",
        "1.0,car0,1,1,20",
        "1.13,carX,0,0,1",
        "1,2,3,4,5,6,7",
    ]
    with open(tmp_path / "a.csv", "a") as file:
        file.write("\n".join(bad) + "\n")
    with caplog.at_level("WARNING", logger="decathlon"):
        state = read_trace(tmp_path / "a.csv")
    assert int(state["refused"]) == len(bad)
    assert "a.csv: 1 rows left out: negative speed" in caplog.text
    assert "wrong number of fields" in caplog.text and "twice" in caplog.text and "grid" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,id,x\n1,a,2\n", "has no column y, speed; a trace has time, id, x, y, speed"),
        ("time,id,x,y,speed\n", "0 usable times"),
        ("time,id,x,y,speed\n0,a,q,0,1\n", "0 usable times"),
        ("", "cannot be read"),
    ],
)
def test_a_broken_trace_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_trace(tmp_path / "b.csv")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="is no file"):
        read_trace(tmp_path / "c.csv")
