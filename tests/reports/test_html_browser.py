"""The page in a real browser, without network: curves, choices, gallery, layout, accessibility, print."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from repository import SAMPLE_RUN

from auditor.reports import read_report
from auditor.reports.drawing import heats, plates, printed
from auditor.reports.formats import figures, html

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
WIDTHS = (390, 1024, 1600)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="chromium is not installed: apt-get install chromium"),
]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

# Text that a reader can see: its boxes on the screen, cut to what folded or scrolling parents show.
TEXTS = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.textContent.trim() || ["SCRIPT", "STYLE"].includes(parent.tagName)) continue;
    if (parent.closest("nav, .skip") || !parent.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const clip = parent.closest(".scroll");
    const edge = clip ? clip.getBoundingClientRect() : {left: -1e9, right: 1e9};
    for (const box of range.getClientRects()) {
      const left = Math.max(box.left, edge.left), right = Math.min(box.right, edge.right);
      if (right - left > 1) found.push({text: node.textContent.trim().slice(0, 40), left, right,
        top: box.top + scrollY + box.height * .15, bottom: box.bottom + scrollY - box.height * .15, inside: !clip});
    }
  }
  return found;
}"""
SVG_TEXTS = """() => [...document.querySelectorAll("svg text")].map((each) => {
  const box = each.getBoundingClientRect();
  return {text: each.textContent, left: box.left, right: box.right, top: box.top + box.height * .15,
          bottom: box.bottom - box.height * .15};
})"""
MODELS = """(key) => Bokeh.documents.flatMap((doc) => doc.roots())
  .filter((root) => document.getElementById("figure-" + key).contains(Bokeh.index.get_by_id(root.id).el))
  .flatMap((root) => [...root.references()])"""


def overlaps(boxes: list[dict]) -> list[tuple[str, str]]:
    """Return the texts that lie on one another."""
    found, open_boxes = [], []
    for box in sorted(boxes, key=lambda each: each["top"]):
        open_boxes = [each for each in open_boxes if each["bottom"] > box["top"] + 1]
        found += [
            (each["text"], box["text"])
            for each in open_boxes
            if each["left"] < box["right"] - 1 and box["left"] < each["right"] - 1
        ]
        open_boxes.append(box)
    return found


@pytest.fixture(scope="module")
def report():
    """The demo's report."""
    return read_report(SAMPLE_RUN)


@pytest.fixture(scope="module")
def path(report, tmp_path_factory) -> Path:
    """The demo's page as a file."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html.page(report))
    return path


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium."""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """The page, opened without network; what the console and the network heard of it."""

    def __init__(self, browser, path: Path, width: int = 1024, **options) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        self.page = self.context.new_page()
        self.heard, self.requested = [], []
        self.page.on("console", lambda message: self.heard.append(message.text))
        self.page.on("pageerror", lambda error: self.heard.append(str(error)))
        self.page.on("dialog", lambda dialog: self.heard.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(path.as_uri())

    def draw(self, *keys: str) -> None:
        """Scroll to figures, all if none is named, and wait until they are drawn."""
        names = keys or self.page.eval_on_selector_all("figure.chart", "all => all.map(each => each.dataset.chart)")
        for key in names:
            self.page.locator(f"#figure-{key}").scroll_into_view_if_needed()
            self.page.wait_for_selector(f"#figure-{key}[data-ready]")
        self.page.wait_for_timeout(200)

    def visible(self, key: str) -> dict[str, bool]:
        """Return which named curves of a figure are shown."""
        script = f"key => Object.fromEntries(({MODELS})(key).filter((m) => m.name).map((m) => [m.name, m.visible]))"
        return self.page.evaluate(script, key)

    def point(self, key: str, metric: str, at: int) -> tuple[float, float]:
        """Return where on the screen a point of a curve lies."""
        return self.page.evaluate(
            """([key, name, at]) => {
              const views = Bokeh.documents.flatMap((doc) => doc.roots()).map((root) => Bokeh.index.get_by_id(root.id))
                .filter((view) => document.getElementById("figure-" + key).contains(view.el));
              const plots = views.flatMap((view) => view.child_views?.length ? view.child_views : [view]);
              for (const plot of plots) for (const renderer of plot.model.renderers) {
                if (renderer.name !== name || renderer.glyph.type !== "Scatter") continue;
                const view = plot.views.find_one(renderer), frame = plot.canvas_view || plot.canvas;
                const box = (frame.el || plot.el).getBoundingClientRect();
                return [box.left + view.glyph.sx[at], box.top + view.glyph.sy[at]];
              }
            }""",
            [key, metric, at],
        )


@pytest.fixture
def visit(browser, path):
    """``visit(width)`` opens the demo's page."""
    opened = []

    def start(width: int = 1024, **options) -> Visit:
        opened.append(Visit(browser, path, width, **options))
        return opened[-1]

    yield start
    for each in opened:
        each.context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_draws_every_figure_silently_without_network_and_fits_the_screen(visit, width):
    seen = visit(width)
    seen.draw()
    assert seen.heard == []
    assert [url for url in seen.requested if not url.startswith(("file:", "data:", "blob:"))] == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = seen.page.evaluate(TEXTS)
    assert len(boxes) > 200 and overlaps(boxes) == []
    assert max(box["right"] for box in boxes) <= width


def test_a_metric_and_a_space_can_be_switched_on_and_off_by_keyboard(visit):
    seen = visit()
    seen.draw("divergence-and-loss")
    before = seen.visible("divergence-and-loss")
    assert before["|loss, held-out images"] and not before["|loss, own training images"]
    figure = seen.page.locator("#figure-divergence-and-loss")
    box = figure.get_by_label("loss, own training images")
    box.focus()
    seen.page.keyboard.press("Space")
    after = seen.visible("divergence-and-loss")
    assert {name for name in after if after[name] != before[name]} == {"|loss, own training images"}
    figure.get_by_label("correlation", exact=True).uncheck()
    assert not seen.visible("divergence-and-loss")["correlation|twin distance"]
    assert seen.heard == []


def test_the_step_axis_can_be_linear_or_logarithmic(visit, report):
    seen = visit()
    seen.draw("own-share")
    ends = f"key => ({MODELS})(key).filter((m) => m.type === 'Range1d').map((m) => [m.start, m.end])[0]"
    low, high = seen.page.evaluate(ends, "own-share")
    assert 10**low < report.steps[0] and report.steps[-1] < 10**high < 2 * report.steps[-1]
    first = seen.point("own-share", "pixel|both twins", 1)[0]
    seen.page.locator("#figure-own-share").get_by_label("linear").check()
    low, high = seen.page.evaluate(ends, "own-share")
    assert low < report.steps[0] and report.steps[-1] < high < 2 * report.steps[-1]
    seen.page.wait_for_timeout(200)
    assert seen.point("own-share", "pixel|both twins", 1)[0] < first  # the first steps move together


def test_hovering_over_a_point_says_value_interval_n_and_definition(visit, report):
    seen = visit()
    seen.draw("own-share")
    x, y = seen.point("own-share", "pixel|both twins", 5)
    seen.page.mouse.move(x, y)
    tip = seen.page.locator(".bk-Tooltip").first
    tip.wait_for()
    seen.page.wait_for_function("tip => tip.shadowRoot.textContent.includes('interval')", arg=tip.element_handle())
    said = " ".join(tip.evaluate("tip => tip.shadowRoot.textContent").split())
    row = report.estimates("own_share", "both", "pixel").iloc[5]
    for part in (f"{row.value:.2%}", f"interval {row.low:.4g} to {row.high:.4g}", f"n = {row.n:,}", "Do samples lean"):
        assert part in said, (part, said)
    assert f"step {report.steps[5]:,}" in said


def test_the_gallery_opens_and_its_pictures_are_there(visit):
    seen = visit()
    last = seen.page.locator("details.wall").last
    assert not last.locator("img").first.is_visible()
    last.locator("summary").click()
    pictures = last.locator("img")
    assert pictures.count() >= 5 and pictures.first.is_visible()
    sizes = pictures.evaluate_all("all => all.map(each => each.naturalWidth)")
    assert min(sizes) > 0


def test_a_link_into_something_folded_opens_it(visit):
    seen = visit()
    link = seen.page.locator("table.checkpoints thead a").first
    target = link.get_attribute("href")
    link.click()
    seen.page.wait_for_selector(target, state="visible")


def test_axe_finds_no_serious_violation(visit):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    seen = visit(390)
    seen.page.evaluate("document.querySelectorAll('details:not(.wall)').forEach((each) => { each.open = true; })")
    seen.draw()
    found = axe.Axe().run(seen.page, options={"resultTypes": ["violations"]}).response["violations"]
    serious = [(each["id"], [node["html"][:120] for node in each["nodes"]][:3]) for each in found]
    assert [each for each, full in zip(serious, found, strict=True) if full["impact"] in ("serious", "critical")] == []


def test_without_javascript_every_figure_is_a_still_picture(visit):
    seen = visit(java_script_enabled=False)
    stills = seen.page.locator("figure.chart .static img")
    assert stills.count() > 4
    for i in range(stills.count()):
        assert stills.nth(i).bounding_box()["width"] > 300
    assert seen.page.locator("table.checkpoints").is_visible()
    assert not seen.page.locator("figure.chart .tools").first.is_visible()


def test_on_paper_figures_are_the_still_pictures_and_nothing_is_folded(visit):
    seen = visit()
    seen.draw("own-share")
    seen.page.emulate_media(media="print")
    seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    figure = seen.page.locator("#figure-own-share")
    assert figure.locator(".static img").is_visible() and not figure.locator(".interactive").is_visible()
    assert seen.page.locator("details:not([open])").count() == 0


def test_hostile_names_run_nothing(browser, hostile_page):
    seen = Visit(browser, hostile_page)
    seen.draw()
    assert seen.heard == [] and seen.page.evaluate("window.hacked") is None
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 1024
    seen.context.close()


def test_no_two_texts_of_a_figure_lie_on_one_another(browser, report):
    page = browser.new_page()
    drawn = {chart.key: printed.picture(chart, "svg") for chart in figures.charts(report)}
    drawn |= {
        name: printed.saved(figure, "svg") for name, figure in (heats.drawn(report) | plates.plates(report)).items()
    }
    for name, svg in drawn.items():
        page.set_content(re.sub(r"^.*?<svg", "<svg", svg.decode(), flags=re.DOTALL))
        boxes = page.evaluate(SVG_TEXTS)
        assert len(boxes) > 5 and overlaps(boxes) == [], name
    page.close()
