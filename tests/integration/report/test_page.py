"""The page in a browser: what people see and do, by mouse or by keyboard, with and without its script."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from pgbake.report.page import render
from pgbake.report.record import read_side
from tests.projects import TestProject
from tests.reports import facts

pytestmark = pytest.mark.integration

_CHROMIUM = Path("/usr/bin/chromium")
_WIDE, _NARROW = ViewportSize(width=1280, height=900), ViewportSize(width=360, height=740)

#: Returns the texts whose contrast to what is behind them is less than 4.5, or 3 where they are large.
_CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const channel = (value) => ((value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, alpha = 1] = parse(getComputedStyle(at).backgroundColor);
      if (alpha === 1) return [r, g, b];
      if (alpha !== 0) throw new Error("half transparent: " + at.outerHTML.slice(0, 80));
    }
    return [255, 255, 255];
  };
  const bad = [];
  let seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility() || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    seen++;
    if (ratio < (large ? 3 : 4.5)) bad.push(`${ratio.toFixed(2)} ${node.data.trim().slice(0, 40)}`);
  }
  if (seen < 100) bad.push(`only ${seen} texts were seen`);
  return bad;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not _CHROMIUM.exists():
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is missing: scripts/setup test")
        pytest.skip("chromium is missing: scripts/setup test")
    # Chromium's own sandbox refuses root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render(facts()))
    return file


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    """The page on a wide and light screen; whatever it complains of or asks for fails the test."""
    page = browser.new_page(viewport=_WIDE, color_scheme="light", reduced_motion="reduce")
    complaints = _watch(page)
    page.goto(file.as_uri())
    yield page
    assert page.evaluate("window.ran") is None, "text of the facts ran"
    page.close()
    assert complaints == []


def _watch(page: Page) -> list[str]:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if not _is_page(request.url) else None)
    return complaints


def _is_page(url: str) -> bool:
    return url.startswith("file:") and url.partition("#")[0].endswith("report.html")


def _column(page: Page, section: str, number: int) -> list[str]:
    rows = page.locator(f"#{section} table").first.locator("tbody tr:not([hidden])")
    return [text.split("\n")[0] for text in rows.locator(f"xpath=*[{number}]").all_inner_texts()]


def test_hostile_text_is_shown_and_does_not_run(page: Page) -> None:
    assert page.get_by_text("<script>window.ran = true</script>").count() >= 3
    assert page.locator("img").count() == 0


def test_the_policy_stops_what_would_get_in(browser: Browser, file: Path, tmp_path: Path) -> None:
    """Were some text not escaped after all, it still could neither run nor load anything."""
    broken = tmp_path / "broken-report.html"
    broken.write_text(file.read_text().replace("</main>", "<script>window.ran = 1</script><img src='x.png'></main>"))
    page = browser.new_page()
    complaints = _watch(page)
    page.goto(broken.as_uri())
    assert page.evaluate("window.ran") is None
    assert sum("Content Security Policy" in complaint for complaint in complaints) >= 2
    page.close()


def test_sorting_by_keyboard(page: Page) -> None:
    header = page.locator("#extensions table").first.get_by_role("columnheader", name="Size")
    header.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert _column(page, "extensions", 1)[0] == "pgaudit"
    page.keyboard.press("Space")
    assert header.get_attribute("aria-sort") == "ascending"
    assert _column(page, "extensions", 1)[-1] == "pgaudit"
    name = page.locator("#extensions table").first.get_by_role("columnheader", name="Name")
    name.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") is None
    assert _column(page, "extensions", 1) == sorted(_column(page, "extensions", 1))


def test_filtering_by_keyboard(page: Page) -> None:
    field = page.get_by_label("Filter extensions")
    field.focus()
    page.keyboard.type("pgaud")
    assert _column(page, "extensions", 1) == ["pgaudit"]
    assert page.locator("#extensions [role=status]").inner_text() == "1 of 6 rows"
    page.keyboard.press("Escape")
    assert len(_column(page, "extensions", 1)) == 6
    page.locator("#extensions").get_by_label("Origin").select_option("contrib")
    assert _column(page, "extensions", 1) == ["btree_gin", "hstore"]


def test_the_skip_link_comes_first(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_the_map_is_reached_by_tab_with_names(page: Page) -> None:
    page.get_by_text("Skip the map").focus()
    names: list[str] = []
    for _ in facts().closure:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.matches('.map a')")
        names.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert len(set(names)) == len(names)
    assert names[0] == "libicu72 37.0 MB, 30 %, Runtime packages"
    assert page.locator("#map-status").inner_text().startswith("postgresql-15-pgaudit-1.7.0")
    page.get_by_role("link", name="libicu72 37.0 MB").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector(':target').cells[0].innerText").startswith("libicu72-72.1-3")


def test_areas_of_the_map_are_sizes(page: Page) -> None:
    boxes = page.locator(".map li").evaluate_all(
        "items => items.map(item => { const box = item.getBoundingClientRect(); return box.width * box.height })"
    )
    whole = page.locator(".map").evaluate("item => item.clientWidth * item.clientHeight")
    assert sum(boxes) == pytest.approx(whole, rel=0.01)
    assert boxes[0] / whole == pytest.approx(37_000_000 / facts().size, rel=0.01)


def test_light_and_dark_by_preference_and_by_the_button(page: Page) -> None:
    light = page.screenshot()
    assert page.get_by_role("button", name="Dark colours").is_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    dark = page.screenshot()
    assert light != dark
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 27)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 27)"
    page.get_by_role("button", name="Light colours").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(245, 247, 249)"
    page.reload()  # nothing is stored
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 27)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [_WIDE, _NARROW], ids=["wide", "narrow"])
def test_contrast(page: Page, scheme: str, viewport: ViewportSize) -> None:
    page.set_viewport_size(viewport)
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.evaluate("document.querySelectorAll('details').forEach(item => (item.open = true))")
    assert page.evaluate(_CONTRAST) == []


@pytest.mark.parametrize("width", [360, 320, 768])
def test_nothing_scrolls_sideways(page: Page, width: int) -> None:
    page.set_viewport_size(ViewportSize(width=width, height=740))
    page.evaluate("document.querySelectorAll('details').forEach(item => (item.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_its_script(browser: Browser, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport=_WIDE)
    page = context.new_page()
    complaints = _watch(page)
    page.goto(file.as_uri())
    assert page.locator("#extensions table").first.locator("tbody tr").count() == 6
    assert page.locator("#theme").is_hidden()
    assert page.locator(".filter").count() == 0
    log = page.locator("#checks details", has_text="Log, 400 lines").last
    assert not log.locator("pre").is_visible()
    log.locator("summary").click()
    assert log.locator("pre").is_visible()
    page.get_by_role("link", name="libicu72 37.0 MB").click()
    assert page.url.endswith("#p0")
    assert complaints == []
    context.close()


def test_it_prints(page: Page, tmp_path: Path) -> None:
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden() and page.locator(".filter").first.is_hidden()
    pdf = page.pdf(path=tmp_path / "report.pdf")
    assert pdf.startswith(b"%PDF") and 2 <= pdf.count(b"/Type /Page\n") <= 30


def test_the_report_of_the_example(project: TestProject, browser: Browser, tmp_path: Path) -> None:
    """The command on a real bundle, one of whose checks has passed, and one failed."""
    uses = project.directory / "tests/uses"
    uses.mkdir(parents=True)
    (uses / "plsh.sql").write_text("SELECT 1/0 AS fault;\n")
    assert project.pgbake("check", "smoke/pgvector", "smoke/plsh", check=False).returncode == 1
    out = tmp_path / "report.html"
    assert "wrote" in project.pgbake("report", "--out", str(out), "--open", "no").stdout
    first = out.read_bytes()
    project.pgbake("report", "--out", str(out), "--open", "no")
    assert out.read_bytes() == first, "equal facts, other bytes"
    told = project.json("report")
    size = project.json("size")
    assert sum(item["size"] for item in told["closure"]) == size["closure"]
    assert told["bundle"]["path"] == size["path"]
    assert {"vector", "hstore", "plpgsql"} <= {item["name"] for item in told["extensions"]}
    assert all(step["how"] == "built" for step in told["timeline"])
    states = {check["name"]: check["state"] for check in told["checks"]}
    assert (states["smoke/pgvector"], states["smoke/plsh"]) == ("passed", "failed")
    failed = next(check for check in told["checks"] if check["name"] == "smoke/plsh")
    assert "division by zero" in failed["log"] and "@pgbake" not in failed["log"]
    assert all(item["part"] != "other" for item in told["closure"])
    assert read_side(out).path == size["path"]

    page = browser.new_page(viewport=_NARROW)
    complaints = _watch(page)
    page.goto(out.as_uri())
    assert page.locator("h1").inner_text() == "example"
    assert page.locator(".map a").count() == len(size["paths"])
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()
    assert complaints == []

    project.pgbake("report", "--out", str(tmp_path / "again.html"), "--against", str(out))
    assert "That is this bundle itself" in (tmp_path / "again.html").read_text()
    refused = project.pgbake("report", "--against", str(project.directory / "pgbake.lock"), check=False)
    assert refused.returncode == 2 and "is no report" in refused.stderr
