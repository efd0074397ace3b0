"""The report: its files, what is on its pages, text from results, and a real browser where there is one."""

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from decathlon.report import charts, site, svg
from decathlon.report.charts import Bar, Bars, Dots, Lines, Series
from decathlon.runner.forecast import jobs_of
from tests.conftest import Door
from tests.report.folders import finish, finished, hostile

EVIL = '<script>alert("x")</script>'
VOID = {"meta", "link", "br", "img", "input", "meter", "line", "rect", "circle", "polyline"}


class Page(HTMLParser):
    """A page's links, images without a text, headings without a scope; fails where tags do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.links, self.faults = path, [], []
        self.open: list[str] = []
        self.headings: list[int] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        given = dict(attributes)
        self.links += [given[key] for key in ("href", "src") if key in given]
        if tag == "img" and not given.get("alt"):
            self.faults.append("an image without text")
        if tag == "th" and "scope" not in given:
            self.faults.append("a heading of a table without scope")
        if tag == "svg" and not (given.get("role") == "img" and given.get("aria-label")):
            self.faults.append("a chart without a label")
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, (self.path, tag)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a table's jobs, of jobs with odd values, of a hostile folder, of a job with pictures and logs."""
    folder = tmp_path_factory.mktemp("report")
    root = folder / "results"
    jobs = jobs_of(["experiment=toy/small", f"results_dir={root}"])
    for job in jobs[:-2]:
        finish(job, metrics={"test/accuracy": 0.8 + 0.01 * job.seed + (job.config["lr"] == 0.1) * 0.1})
    finish(jobs[-2], metrics={"test/accuracy": None})
    jobs[-1].folder.mkdir(parents=True)
    jobs[-1].fail(RuntimeError(f"it said {EVIL}"), f"Traceback {EVIL}")
    (jobs[0].folder / "curve.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (jobs[0].folder / "metrics.csv").write_text(
        "epoch,step,train/loss,val/loss\n0,0,3,\n0,1,2,1\n0,2,1,0.5\n0,3,nan,\n"
    )
    finished(root, f"++method.note='{EVIL}'", f"++dataset.note='{EVIL}'", "seed=7,8")
    hostile(root, strays=20)
    site.build(root, folder / "site", overrides=[f"results_dir={root}"])
    return folder / "site"


def pages(report: Path) -> list[Page]:
    return [Page(path) for path in report.rglob("*.html")]


def test_every_link_resolves_inside_the_report(report: Path) -> None:
    for page in pages(report):
        for link in page.links:
            if not link.startswith(("data:", "#")):
                target = (page.path.parent / link.partition("#")[0]).resolve()
                assert target.is_file() and target.is_relative_to(report.resolve()), (page.path, link)


def test_headings_scopes_and_texts_for_screen_readers(report: Path) -> None:
    for page in pages(report):
        assert not page.faults, (page.path, page.faults)
        assert page.headings[0] == 1 and page.headings.count(1) == 1
        assert all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:]))


def test_text_from_results_is_escaped(report: Path) -> None:
    everything = "".join(path.read_text() for path in report.rglob("*.html"))
    assert "alert(" in everything and "<script>alert" not in everything
    assert everything.count("<script ") == len(list(report.rglob("*.html")))  # our own, one a page


def test_a_tables_page_has_numbers_paper_verdicts_dots_and_charts(report: Path) -> None:
    text = (report / "tables" / "toy-small.html").read_text()
    assert "91.0 ± 1.0" in text and "paper 90.0, +1.0" in text and 'class="n">n=3' in text
    assert text.count('<strong class="verdict-') == 2 and "1 diverged" in text
    assert text.count("<svg") >= 2 + 1  # a dot plot for each claim that has seeds, and a chart
    assert 'data-value="91.' in text


def test_a_jobs_page(report: Path) -> None:
    texts = [path.read_text() for path in (report / "jobs").glob("*.html")]
    (drawn,) = [text for text in texts if "curve.png" in text]
    assert "run task=toy dataset=points" in drawn and drawn.count("<polyline") == 2 and "val/loss" in drawn
    failed = [text for text in texts if "it said &lt;script&gt;" in text]
    assert len(failed) == 1 and "Traceback &lt;script" in failed[0]
    assert any("no command of today" in text for text in texts)


def test_the_index_names_what_is_odd(report: Path) -> None:
    text = (report / "index.html").read_text()
    assert "cannot be read" in text and "belong to no job" in text and "unheard" in text
    assert re.search(r"toy/small</a></th><td>Toy</td><td><meter[^>]*>8 of 9", text)


def test_only_a_report_is_replaced(tmp_path: Path, decathlon_here: Door, here: Path) -> None:
    finished(here / "results", "seed=0")
    assert decathlon_here("report").status == 0
    stale = here / "report" / "jobs" / "stale.html"
    stale.touch()
    assert decathlon_here("report").status == 0 and not stale.exists()
    (here / "mine").mkdir()
    (here / "mine" / "letter.txt").touch()
    for arguments, message in (
        (["--out", "mine"], "is there and is no report"),
        (["toy/none"], "toy/none is no table; choose"),
        (["results_dir=elsewhere"], "is no folder of results"),
    ):
        said = decathlon_here("report", *arguments)
        assert said.status == 2 and message in said.stderr and said.stderr.count("\n") == 1
    assert decathlon_here("report", "toy/small", "--out", "one").status == 0
    assert (here / "one" / "tables" / "toy-small.html").is_file()


def test_plot_writes_the_charts_as_files(here: Path, decathlon_here: Door) -> None:
    assert decathlon_here("plot", "toy/small").status == 2
    finished(here / "results", "experiment=toy/small")
    said = decathlon_here("plot", "toy/small", "--out", "plots")
    assert said.status == 0
    assert {path.name for path in (here / "plots").glob("*.png")} >= {"toy-small-claim-1.png", "toy-small-claim-2.png"}
    assert decathlon_here("plot", "toy/small", "--format", "svg", "--out", "plots").status == 0
    assert all(path.read_text().lstrip().startswith("<?xml") for path in (here / "plots").glob("*.svg"))


@pytest.mark.parametrize(
    "chart",
    [
        Bars("t", [Bar("a", None), Bar(EVIL, -1.0, 0.5, 2.0, EVIL)]),
        Bars("none", [Bar("a", None)]),
        Bars("equal", [Bar("a", 0.0), Bar("b", 0.0)]),
        Lines("t", "x", [Series(EVIL, [(1.0, 2.0, 0.1)]), Series("b", [(1.0, 1e-9, 0.0), (999.0, 5.0, 0.0)])], True),
        Lines("flat", "x", [Series("a", [(0.0, 1.0, 0.0), (1.0, 1.0, 0.0)])]),
        Dots(EVIL, [("seed 0", 0.0)], 0.0),
        Dots("t", [("seed 0", -1e300), ("seed 1", 1e300)], 0.0, 1e300),
    ],
)  # fmt: skip
def test_charts_are_well_formed(chart: charts.Chart) -> None:
    from xml.etree import ElementTree

    drawn = svg.draw(chart)
    tree = ElementTree.fromstring(drawn)
    assert EVIL not in drawn
    for element in tree.iter():
        for key in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
            if key in element.attrib:
                assert abs(float(element.attrib[key])) < 1e5


def test_bars_and_whiskers_are_where_their_values_are() -> None:
    from xml.etree import ElementTree

    tree = ElementTree.fromstring(svg.draw(Bars("t", [Bar("a", 2.0, 1.0), Bar("b", 4.0, 0.0)])))
    first, second = (float(bar.attrib["width"]) for bar in tree.iter("rect"))
    assert second == pytest.approx(2 * first, abs=0.2)
    (whisker,) = [
        line
        for line in tree.iter("line")
        if line.attrib["class"] == "spread" and line.attrib["y1"] == line.attrib["y2"]
    ]
    assert float(whisker.attrib["x2"]) - float(whisker.attrib["x1"]) == pytest.approx(first, abs=0.2)


def test_ticks_are_round_and_inside() -> None:
    assert charts.ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert charts.ticks(-130.0, 270.0) == [-100.0, 0.0, 100.0, 200.0]
    assert charts.ticks(3.0, 3.0) == [3.0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; the test skips where there is none."""
    program, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with its driver here")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=390,844",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def column(browser: Any, place: int) -> list[str]:
    rows = "[...document.querySelectorAll('table[data-sortable] tbody tr')].filter(row => !row.hidden)"
    return browser.execute_script(f"return {rows}.map(row => row.cells[arguments[0]].textContent)", place)


def test_in_a_browser_pages_load_sort_and_filter(report: Path, browser: Any) -> None:
    for path in sorted(report.rglob("*.html")):
        browser.get(path.as_uri())
        assert not browser.get_log("browser"), path
        width, window = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert width <= window + 1, f"{path} is wider than a phone"
    browser.get((report / "tasks" / "toy.html").as_uri())
    keys = browser.execute_script("return [...document.querySelectorAll('thead th')].map(h => h.textContent)")
    place = keys.index("test/accuracy")
    button = browser.find_elements("css selector", "thead th button")[place]
    for sign in (1, -1):
        button.send_keys("\n")  # by the keyboard
        values = [float(text) for text in column(browser, place) if text not in ("", "—")]
        assert values == sorted(values, key=lambda value: sign * value) and len(values) > 5
        assert column(browser, place)[-1] in ("", "—")  # what has no number comes last, both ways
    rows = len(column(browser, 0))
    field = browser.find_element("css selector", "[data-filter]")
    field.send_keys("failed")
    states = column(browser, keys.index("state"))
    assert 0 < len(states) < rows and set(states) == {"failed"}
    assert f"{len(states)} of {rows} rows" in browser.find_element("css selector", "[data-count]").text


def test_a_screenshot_is_not_blank_in_light_and_dark(report: Path, browser: Any, tmp_path: Path) -> None:
    from matplotlib.image import imread

    seen = []
    for scheme in ("light", "dark"):
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        browser.get((report / "tables" / "toy-small.html").as_uri())
        browser.save_screenshot(str(tmp_path / f"{scheme}.png"))
        seen.append(imread(tmp_path / f"{scheme}.png")[..., :3])
        assert seen[-1].std() > 0.02
    assert seen[0].mean() > 0.6 and seen[1].mean() < 0.4
