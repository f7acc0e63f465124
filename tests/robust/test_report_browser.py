"""The report page in a browser: nothing is fetched, players load, tables and charts answer to mouse and keyboard.

Skipped where playwright or a Chromium is missing; set ROBUST_CHROMIUM to a browser that lies elsewhere.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attacks.gradients import frozen
from attacks.pgd import PGD
from attacks.threat import Ball
from robust.api import attack
from robust.evaluation.conditions import Attack
from robust.evaluation.engine import AlignedData
from robust.evaluation.pictures import save_frames
from robust.report import write_page
from tests.robust import av_toys, defended_stores, physical_stores, stores, table_stores
from tests.robust.test_report import changed, study
from tests.robust.toys import CLIP_SECONDS, ToyData, victim

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("ROBUST_CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here; install one or set ROBUST_CHROMIUM")
ARGUMENTS = (
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-quic", "--no-first-run",
)  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each sort, by name."""
    home = tmp_path_factory.mktemp("pages")
    model, many = victim(), victim("multilabel")
    attack(model, ToyData(24, model), eps=0.01, steps=4, out=home / "plain", checks=False)
    attack(model, ToyData(24, model), eps=0.002, steps=2, out=home / "weaker", checks=False)
    attack(many, ToyData(24, many), eps=0.01, steps=3, out=home / "many", checks=False)
    seeing, data = av_toys.linear(av_toys.SOUND, av_toys.SIGHT), av_toys.clips(9)
    threat = {"audio": Ball("linf", 0.2), "video": Ball("linf", 0.1, low=0.0, high=1.0)}
    eps = {"audio": 0.2, "video": 0.1}
    done = attack(seeing, data, modality="both", eps=eps, steps=3, out=home / "both", checks=False)
    with frozen(seeing):
        condition = Attack(threat, PGD(steps=3))
        save_frames(home / "both", seeing, AlignedData(data, seeing.spec), condition, done.records, 0)
    checks = [{"name": "S3 unbounded", "verdict": "fail", "detail": "9 of 24 clips stand"}]
    folders = {
        "plain": [home / "plain"],
        "failed": [changed(home / "plain", home / "masked", checks=checks)],
        "several": [home / "plain", home / "weaker"],
        "many": [home / "many"],
        "both": [home / "both"],
        "study": [study(home)],
        "surface": [table_stores.surface_run(home / "surface")],
        "air": [physical_stores.air_run(home / "air")],
        "physical": [
            physical_stores.noise_run(home / "noise"),
            physical_stores.music_run(home / "music"),
            physical_stores.sticker_run(home / "stickers"),
        ],
        "defended": [
            defended_stores.purification_run(home / "purification", label=defended_stores.WEAK),
            defended_stores.purify_run(home / "purify"),
            defended_stores.certificate_run(home / "certificate"),
            defended_stores.purified_noise_run(home / "purified"),
        ],
    }
    return {name: Path(write_page(runs, home / f"{name}.html").path) for name, runs in folders.items()}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=list(ARGUMENTS))
        yield opened
        opened.close()


class Visit:
    """A page in the browser, and what it complained of and asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1200, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def rows(self, table: str, column: int) -> list[str]:
        """The text of one column of the rows that are shown."""
        script = """([id, column]) => [...document.getElementById(id).tBodies[0].rows].filter(row => !row.hidden)
            .map(row => row.cells[column].textContent.trim().replace(/\\s+/g, ' '))"""
        return list(self.page.evaluate(script, [table, column]))


@pytest.fixture
def visit(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    visits: list[Visit] = []

    def go(name: str, **options: Any) -> Visit:
        visits.append(Visit(browser, pages[name], **options))
        return visits[-1]

    yield go
    for made in visits:
        made.context.close()
        assert made.complaints == []
        assert [url[:60] for url in made.asked[1:] if not url.startswith("data:")] == []


@pytest.mark.parametrize(
    "name", ["plain", "failed", "several", "many", "both", "study", "surface", "air", "physical", "defended"]
)
@pytest.mark.parametrize("width", [1200, 360])
def test_every_page_opens_without_complaint_and_fits(visit: Any, name: str, width: int) -> None:
    page = visit(name, width=width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h1").count() == 1


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("plain", [CLIP_SECONDS] * 24),
        ("many", [CLIP_SECONDS] * 24),
        ("air", [0.05] * 32),
        ("physical", [0.1] * 3 + [0.05] * 8),
        ("defended", [0.05] * 9),
    ],
)
def test_players_load(visit: Any, name: str, seconds: list[float]) -> None:
    page = visit(name).page
    page.wait_for_function("[...document.querySelectorAll('audio')].every(one => one.readyState >= 1)")
    lengths = page.evaluate("[...document.querySelectorAll('audio')].map(one => one.duration)")
    assert lengths == pytest.approx(seconds, abs=0.005)


def test_losses_are_coloured_and_their_numbers_stay_readable(visit: Any) -> None:
    """The more is lost the further the colour is from the paper, in light and dark; ink keeps a contrast of 4.5."""
    script = """() => [...document.querySelectorAll('.damage .tile')].map(tile => {
        const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        const seen = colour => {
            canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
                .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const style = getComputedStyle(tile);
        return [Number(style.getPropertyValue('--share')), seen(style.backgroundColor), seen(style.color)];
    })"""
    for scheme, sign in (("light", -1), ("dark", 1)):
        tiles = sorted(visit("physical", color_scheme=scheme).page.evaluate(script))
        assert len(tiles) == 2 * 5 + 3 * 5
        assert all(sign * (two[1] - one[1]) >= -0.005 for one, two in itertools.pairwise(tiles))
        assert sign * (tiles[-1][1] - tiles[0][1]) > 0.05
        for _, paper, ink in tiles:
            assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) >= 4.5


def test_pictures_load(visit: Any) -> None:
    page = visit("both").page
    assert page.locator(".frames img").count() == 4 * 2 * 3
    assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert page.locator("image").count() == 8 * 3


def test_one_player_silences_the_others(visit: Any) -> None:
    page = visit("plain").page
    script = """async () => {
        const [one, other] = document.querySelectorAll('audio');
        one.muted = other.muted = one.loop = other.loop = true;
        await one.play(); await other.play();
        return [one.paused, other.paused];
    }"""
    assert page.evaluate(script) == [True, False]


def test_tables_sort_both_ways_by_number_and_by_name(visit: Any) -> None:
    seen = visit("plain")
    page, table = seen.page, "run-1-class-table"
    before = seen.rows(table, 0)
    heading = page.locator(f"#{table} th button", has_text="Robust")
    heading.focus()
    page.keyboard.press("Enter")
    assert page.locator(f"#{table} th[aria-sort=ascending]").inner_text().startswith("Robust")
    values = [float(text.split()[0]) for text in seen.rows(table, 3)]
    assert values == sorted(values)
    assert len(set(values)) > 1
    page.keyboard.press("Enter")
    assert page.locator(f"#{table} th[aria-sort]").get_attribute("aria-sort") == "descending"
    assert [float(text.split()[0]) for text in seen.rows(table, 3)] == values[::-1]
    page.locator(f"#{table} th button", has_text="Class").click()
    assert seen.rows(table, 0) == sorted(before)


def test_tables_filter_and_say_how_many_are_left(visit: Any) -> None:
    seen = visit("plain")
    seen.page.get_by_label("Filter the classes").fill("MID")
    assert seen.rows("run-1-class-table", 0) == ["middle"]
    assert seen.page.locator(".filter output").inner_text() == "1 of 3 shown"
    seen.page.get_by_label("Filter the classes").fill("")
    assert len(seen.rows("run-1-class-table", 0)) == 3


def test_chart_legend_hides_and_shows_lines(visit: Any) -> None:
    page = visit("study").page
    chart = page.locator("[data-chart=chart-1]")
    assert chart.locator("g[role=slider]").count() == 2
    button = chart.get_by_role("button", name="av-early")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert chart.locator("g[role=slider]").count() == 1
    button.focus()
    page.keyboard.press("Space")
    assert button.get_attribute("aria-pressed") == "true"
    assert chart.locator("g[role=slider]").count() == 2


def test_chart_is_read_by_keyboard_and_by_pointer(visit: Any) -> None:
    page = visit("study").page
    chart = page.locator("[data-chart=chart-1]")
    line, tip = chart.locator("g[role=slider]").first, chart.locator(".tip")
    assert tip.is_hidden()
    line.focus()
    first = line.get_attribute("aria-valuetext")
    assert "L∞ radius" in first
    assert "95 % interval" in first
    page.keyboard.press("ArrowRight")
    second = line.get_attribute("aria-valuetext")
    assert first != second
    assert line.get_attribute("aria-valuenow") == "1"
    assert second.split(", ")[0] in tip.inner_text()
    page.keyboard.press("End")
    assert line.get_attribute("aria-valuenow") == line.get_attribute("aria-valuemax")
    line.blur()
    assert tip.is_hidden()
    chart.scroll_into_view_if_needed()
    dot = line.locator(".point").nth(3).bounding_box()
    page.mouse.move(dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2)
    assert tip.is_visible()
    assert "av-" in tip.inner_text()
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1200


def test_harder_levels_lie_to_the_right(visit: Any) -> None:
    chart = visit("study").page.locator("[data-chart=chart-2]")
    places = chart.locator(".point").evaluate_all("dots => dots.map(dot => dot.getBoundingClientRect().x)")
    assert places == sorted(places)
    ticks = chart.locator("text[text-anchor=middle]").evaluate_all("all => all.map(one => one.textContent)")
    assert [tick for tick in ticks if tick.lstrip("−").isdigit()] == ["−10", "0", "10", "20", "30", "40"]


def test_the_ceiling_of_certificates_is_drawn_where_it_is(visit: Any) -> None:
    page = visit("defended").page
    chart = page.locator("[data-chart=chart-run-3]")
    assert chart.locator("g[role=slider]").count() == 2
    ceiling = chart.locator(".ceiling").bounding_box()["x"]
    last = chart.locator("g[role=slider]").first.locator(".point").last.bounding_box()
    assert ceiling == pytest.approx(last["x"] + last["width"] / 2, abs=2)
    assert "ceiling of the votes" in chart.inner_text()
    assert page.locator("[data-chart=chart-run-2] .ceiling").count() == 0


def test_what_is_not_adaptive_is_seen_at_once(visit: Any) -> None:
    page = visit("defended").page
    badge = page.locator("#run-1 ~ .scores .called.weak")
    assert badge.count() == 1
    assert badge.inner_text() == f"! {defended_stores.WEAK}"


def test_keyboard_reaches_everything_that_answers(visit: Any) -> None:
    page = visit("study").page
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    script = """() => [...document.querySelectorAll('a, button, input, summary, audio, [role=slider], .scroll')]
        .filter(one => one.checkVisibility()).map((one, place) => { one.dataset.seat = place; return place; }).length"""
    wanted, reached = page.evaluate(script), set()
    for _ in range(4 * wanted):
        page.keyboard.press("Tab")
        seat = page.evaluate("document.activeElement.dataset.seat ?? null")
        reached |= {seat} - {None}
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        slider = page.evaluate("document.activeElement.getAttribute('role') === 'slider'")
        assert seat is None or slider or outline != "none"
        if len(reached) == wanted:
            break
    assert len(reached) == wanted


def test_skip_link_comes_first(visit: Any) -> None:
    page = visit("plain").page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0


CONTRAST = """() => {
    const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
    const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const light = colour => colour.slice(0, 3).map(v => linear(v / 255))
        .reduce((sum, v, place) => sum + v * [.2126, .7152, .0722][place], 0);
    const ground = node => {
        for (; node; node = node.parentElement) {
            const colour = getComputedStyle(node).backgroundColor;
            if (colour.startsWith('color(')) return parse(colour.split('srgb')[1]).map(v => v * 255);
            const found = parse(colour);
            if (found.length < 4 || found[3] > 0) return found;
        }
        return [255, 255, 255];
    };
    const bad = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const holder = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !holder.checkVisibility() || holder.closest('script, style')) continue;
        const style = getComputedStyle(holder), svg = holder.namespaceURI.endsWith('svg');
        const pair = [light(parse(svg ? style.fill : style.color)), light(ground(holder))].sort((a, b) => b - a);
        const ratio = (pair[0] + .05) / (pair[1] + .05);
        if (ratio < 4.5) bad.push([walker.currentNode.data.trim().slice(0, 40), ratio]);
    }
    return bad;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["failed", "study", "both", "defended"])
def test_text_stands_out_in_both_schemes(visit: Any, name: str, scheme: str) -> None:
    page = visit(name, color_scheme=scheme).page
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(21, 24, 28)") == (scheme == "dark")
    assert page.evaluate(CONTRAST) == []


def test_failed_checks_are_seen_at_once(visit: Any) -> None:
    page = visit("failed").page
    alert = page.locator("section.alert")
    assert alert.bounding_box()["y"] < 700
    assert "do not rely on this number" in alert.inner_text()


def test_print_shows_what_is_folded_and_hides_what_cannot_be_pressed(visit: Any, tmp_path: Path) -> None:
    page = visit("plain").page
    page.emulate_media(media="print")
    assert not page.locator("audio").first.is_visible()
    assert not page.locator("nav").is_visible()
    assert page.locator("table.facts").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    content = page.pdf()
    assert content.startswith(b"%PDF")
    assert len(content) > 20_000


def test_link_to_a_folded_run_opens_it(visit: Any, pages: dict[str, Path], browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    runs = [stores.curve_run(folder / "cells" / f"cell-{place}") for place in range(7)]
    stores.write_study(folder, runs)
    seen = Visit(browser, Path(write_page([folder], tmp_path / "page.html").path))
    prose = seen.page.locator("section.run .prose").first
    assert not prose.is_visible()
    seen.page.locator("#cells-1 a").first.click()
    prose.wait_for(state="visible")
    assert seen.complaints == []
    seen.context.close()
