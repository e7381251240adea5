"""A report in a browser: nothing is fetched, nothing overflows, all can be reached by keyboard and read in both schemes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "google-chrome", "chromium-browser") if (found := shutil.which(name))), None
)
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run"
).split()
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed here")

OPEN = "document.querySelectorAll('details').forEach(one => { one.open = true; })"

# Contrast by WCAG 2.2: relative luminance of text and of what is behind it, with transparent layers laid over each other.
CONTRASTS = """() => {
  const parse = text => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    return {rgb: parts.slice(0, 3), alpha: parts.length > 3 ? parts[3] : 1};
  };
  const over = (front, back) => front.rgb.map((value, i) => value * front.alpha + back[i] * (1 - front.alpha));
  const behind = node => {
    const layers = [];
    for (let one = node; one; one = one.parentElement) layers.push(parse(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((back, layer) => over(layer, back), [255, 255, 255]);
  };
  const luminance = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), parent = walker.currentNode.parentElement;
    if (!text || !parent.getClientRects().length) continue;
    const style = getComputedStyle(parent), back = behind(parent);
    const front = over(parse(parent instanceof SVGElement ? style.fill : style.color), back);
    const [light, dark] = [luminance(front), luminance(back)].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    found.push({text, ratio: (light + 0.05) / (dark + 0.05), needed: large ? 3 : 4.5});
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless browser; without one to start, these tests say so."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def reports(reported_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files that are looked at: a finished run, a searched one, one that is no tree, all together, one with a damaged file."""
    from cli.main import run

    folder = tmp_path_factory.mktemp("reports")
    chosen = {"finished": ["1"], "searched": ["3"], "wired": ["4"], "several": ["1", "2", "3", "4"]}
    files = {name: folder / f"{name}.html" for name in chosen}
    for name, numbers in chosen.items():
        assert run(["report", *numbers, "--runs", str(reported_runs), "--output", str(files[name])]) == 0
    damaged = folder / "001-damaged"
    source = next(path for path in reported_runs.iterdir() if path.name.startswith("001-"))
    shutil.copytree(source, damaged, ignore=shutil.ignore_patterns("*.pt"))
    (damaged / "bench.json").write_text("{", encoding="utf-8")
    assert run(["report", str(damaged), "--output", str(folder / "damaged.html")]) == 2
    return {**files, "damaged": folder / "damaged.html"}


NAMES = ("finished", "searched", "wired", "several", "damaged")


@pytest.fixture
def visit(browser: Any, reports: dict[str, Path]) -> Iterator[Callable[..., Any]]:
    """Open a report; what it fetches and what the console says is kept in `fetched` and `said` of the page's context."""
    contexts = []

    def go(name: str, *, scheme: str = "light", viewport: dict[str, int] = DESK) -> tuple[Any, list[str], list[str]]:
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        fetched: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: fetched.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(reports[name].as_uri())
        return page, fetched, said

    yield go
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_fetched_and_the_console_is_silent(
    visit: Callable[..., Any], reports: dict[str, Path], name: str
) -> None:
    page, fetched, said = visit(name)
    page.evaluate(OPEN)
    page.wait_for_load_state("networkidle")
    assert [url for url in fetched if not url.startswith("data:")] == [reports[name].as_uri()]
    assert said == []
    broken = page.evaluate("[...document.images].filter(one => !one.complete || !one.naturalWidth).length")
    assert broken == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_phone_scrolls_up_and_down_alone(visit: Callable[..., Any], name: str) -> None:
    page, _, _ = visit(name, viewport=PHONE)
    page.evaluate(OPEN)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    # What is wider stands in a box of its own that scrolls, and nothing else does.
    outside = page.evaluate(
        """() => [...document.querySelectorAll('main *, header *')].filter(one => !one.closest('.scroll, pre')
            && one.getBoundingClientRect().right > innerWidth + 0.5).map(one => one.outerHTML.slice(0, 80))"""
    )
    assert outside == []


@pytest.mark.parametrize("name", ["finished", "several"])
def test_links_and_summaries_are_reached_by_tab_with_a_visible_focus(visit: Callable[..., Any], name: str) -> None:
    page, _, _ = visit(name)
    page.evaluate("document.querySelectorAll('a, summary').forEach((one, i) => { one.dataset.place = i; })")
    wanted = page.evaluate(
        """[...document.querySelectorAll('a, summary')].filter(one => !one.parentElement.closest('details:not([open])')
            || one.matches('details:not([open]) > summary')).map(one => one.dataset.place)"""
    )
    seen: dict[str, float] = {}
    for _ in range(len(wanted) + 200):
        page.keyboard.press("Tab")
        place, style, width = page.evaluate(
            """() => { const one = document.activeElement, style = getComputedStyle(one);
                return [one.dataset.place ?? null, style.outlineStyle, parseFloat(style.outlineWidth)]; }"""
        )
        if place is not None:
            seen[place] = width if style == "solid" else 0.0
        if set(wanted) <= set(seen):
            break
    assert set(wanted) <= set(seen)
    assert min(seen.values()) >= 2


def test_the_first_link_skips_to_the_content(visit: Callable[..., Any]) -> None:
    page, _, _ = visit("finished")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_all_text_stands_out_enough(visit: Callable[..., Any], name: str, scheme: str) -> None:
    page, _, _ = visit(name, scheme=scheme)
    page.evaluate(OPEN)
    found = page.evaluate(CONTRASTS)
    assert len(found) > 100
    assert [entry for entry in found if entry["ratio"] < entry["needed"]] == []


def test_schemes_differ_and_paper_is_white(visit: Callable[..., Any]) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        page, _, _ = visit("finished", scheme=scheme)
        colours[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colours["light"] == "rgb(255, 255, 255)"
    assert colours["dark"] != colours["light"]
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_details_are_open_on_paper_and_nothing_is_cut_off(visit: Callable[..., Any]) -> None:
    page, _, _ = visit("finished", viewport={"width": 703, "height": 1000})  # A4 with margins of 12 mm
    heights = "[...document.querySelectorAll('details')].map(one => one.getBoundingClientRect().height)"
    closed = page.evaluate(heights)
    page.emulate_media(media="print")
    printed = page.evaluate(heights)
    page.evaluate(OPEN)
    assert printed == page.evaluate(heights)
    assert max(closed) < min(printed)
    assert page.evaluate("document.documentElement.scrollWidth") <= 703


def test_names_in_pictures_do_not_leave_them(visit: Callable[..., Any]) -> None:
    page, _, _ = visit("several")
    outside = page.evaluate(
        """() => [...document.querySelectorAll('svg text')].filter(one => { const box = one.ownerSVGElement.getBoundingClientRect(),
            own = one.getBoundingClientRect(); return own.left < box.left - 1 || own.right > box.right + 1; })
            .map(one => one.textContent)"""
    )
    assert outside == []
