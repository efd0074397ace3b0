"""What must come out on real data: minutes each, with the raw files of Last.fm-2K."""

from pathlib import Path

import pytest

from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct, execute
from decathlon.runner.job import Job

pytestmark = [pytest.mark.slow, pytest.mark.data]


def metrics(tmp_path: Path, raw: Path, *overrides: str) -> dict[str, float]:
    (tmp_path / "data").mkdir(exist_ok=True)
    link = tmp_path / "data" / "lfm2k-mm"
    if not link.exists():
        link.symlink_to(raw / "lfm2k-mm")
    places = [f"data_dir={tmp_path / 'data'}", f"results_dir={tmp_path / 'results'}"]
    job = Job.of(compose_config(["task=ckd", "trainer=cpu", "figures=false", *places, *overrides]))
    job.folder.mkdir(parents=True)
    return execute(job.config, job.folder, construct(job.config))["metrics"]


@pytest.mark.parametrize(("reg", "least"), [("1e-3", 0.36), ("1e-2", 0.39)])
def test_matrix_factorisation_is_as_good_as_it_should_be(
    reg: str, least: float, tmp_path: Path, data_root: Path | None
) -> None:
    """A well-known library's BPR reaches 0.36 on the dense split."""
    if data_root is None:
        pytest.skip("needs DECATHLON_TEST_DATA")
    found = metrics(tmp_path, data_root, "dataset=lfm2k_dense", "method=mf", f"reg={reg}")
    assert found["test/recall@20"] >= least


def test_the_weak_branch_is_neglected_and_ckd_mends_it(tmp_path: Path, data_root: Path | None) -> None:
    if data_root is None:
        pytest.skip("needs DECATHLON_TEST_DATA")
    joint, ckd, teachers, half = (
        metrics(tmp_path, data_root, "dataset=lfm2k", f"method={name}")
        for name in ("joint", "ckd", "ensemble", "ckd_no_generic")
    )
    audio = "test/recall@20/audio"
    assert joint[audio] <= 0.5 * teachers[audio] and ckd[audio] >= 1.8 * joint[audio]
    assert ckd["test/recall@20"] >= 1.08 * joint["test/recall@20"]
    assert ckd["test/recall@20"] > teachers["test/recall@20"]
    assert abs(half["test/recall@20"] / joint["test/recall@20"] - 1) < 0.05
    assert ckd["train/weight/text"] < 1
