"""The report's list of all items: its data, and what it does in a real browser."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partonomy.__main__ import main as partonomy
from partonomy.cli.results import report
from partonomy.masks import encode_mask
from partonomy.reporting import report_browser
from partonomy.reporting.loaded_run import AnyRun, load_run
from partonomy.reporting.report_browser import INDEX_FILE, SIDE, outline, verdict_of
from tests.partonomy.reporting.browser import open_page
from tests.partonomy.reporting.test_report import run_model


@pytest.fixture
def random_run(question_file: Path, tmp_path: Path) -> AnyRun:
    """Forty questions of ten types about four images."""
    return load_run(run_model("random", question_file, tmp_path / "run"))


def embedded(page: Path) -> dict[str, Any]:
    """The list's data in a page."""
    found = re.search(r'id="browser-data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return dict(json.loads(found.group(1)))


def titles(page: Any) -> list[str]:
    """The ids of the shown cards."""
    return list(page.eval_on_selector_all("#browser article", "nodes => nodes.map(node => node.dataset.id)"))


def settle(page: Any, action: Any) -> None:
    """Do something that changes the list, and wait until it is drawn."""
    before = page.get_attribute("#browser", "data-ready")
    action()
    page.wait_for_function("before => document.getElementById('browser').dataset.ready !== before", arg=before)


def choose(page: Any, role: str, value: str) -> None:
    """Choose an entry of one of the list's menus."""
    settle(page, lambda: page.select_option(f"[data-role={role}]", value))


def open_list(page: Any) -> None:
    """Wait until the list is drawn."""
    page.wait_for_selector("#browser.running article")


def test_every_item_is_in_the_page(random_run: AnyRun) -> None:
    report(str(random_run.path))
    content = embedded(random_run.path / "report.html")
    records = list(random_run.records)
    assert [entry["id"] for entry in content["entries"]] == [record.item_id for record in records]
    assert len(content["pictures"]) == 4, "one per image, though ten questions ask about it"
    for entry, record in zip(content["entries"], records, strict=True):
        assert entry["quality"] == (None if record.quality is None else round(record.quality, 4))
        assert entry["verdict"] == verdict_of(record)
        assert {entry["verdict"]} <= {"right", "wrong"}
        true = next(panel for panel in entry["panels"] if panel["title"] == "true parts")
        assert len(true["masks"]) == len(entry["parts"]) == len(record.true_parts)
    shared = {place for entry in content["entries"] for panel in entry["panels"] for place, _ in panel["masks"]}
    assert shared == set(range(len(content["outlines"])))


def test_an_outline_is_the_border_of_the_mask() -> None:
    mask = np.zeros((64, 128), dtype=bool)
    mask[16:32, 8:40] = True
    path = outline(encode_mask(mask))
    assert path.count("M") == 1
    corner, steps = path.removesuffix("Z").removeprefix("M").split("l")
    points = np.cumsum(np.array([*corner.split(), *steps.split()], dtype=int).reshape(-1, 2), axis=0)
    scale = SIDE / 128
    lower, upper = np.array([8, 16]) * scale, np.array([40, 32]) * scale
    assert np.abs(points.min(axis=0) - lower).max() <= scale
    assert np.abs(points.max(axis=0) - upper).max() <= scale
    assert outline(encode_mask(np.zeros((8, 8), dtype=bool))) == ""
    single = np.zeros((1000, 1000), dtype=bool)
    single[500, 250] = True
    assert outline(encode_mask(single)) == "M128 256l1 0Z", "one pixel is still drawn"


def test_texts_cannot_end_the_script(question_file: Path, tmp_path: Path) -> None:
    text = question_file.read_text().replace("seaplane", "</script><b>")
    question_file.write_text(text)
    run = run_model("oracle", question_file, tmp_path / "run")
    report(str(run))
    assert any("</script><b>" in entry["title"] for entry in embedded(run / "report.html")["entries"])
    assert "</script><b>" not in (run / "report.html").read_text()
    with open_page(run / "report.html") as page:
        open_list(page)
        assert page.locator("#browser article b b").count() == 0


def test_the_number_of_pictures_is_bounded_and_said(random_run: AnyRun) -> None:
    page = random_run.path / "report.html"
    report(str(random_run.path), max_pictures=3)
    assert "Pictures are drawn for 3 of 4 images" in page.read_text()
    content = embedded(page)
    assert len(content["pictures"]) == 3
    assert sum(entry["drawn"] for entry in content["entries"]) == 30
    report(str(random_run.path), max_pictures=0)
    assert embedded(page)["pictures"] == []
    assert partonomy(["report", str(random_run.path), "--max_pictures", "-1"]) == 1


def test_a_large_run_is_written_into_a_folder(random_run: AnyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_browser, "MAX_EMBEDDED", 39)
    monkeypatch.setattr(report_browser, "PAGE_SIZE", 7)
    report(str(random_run.path))
    page, folder = random_run.path / "report.html", random_run.path / "report_cases"
    content = embedded(page)
    assert set(content) == {"folder", "pageSize", "side", "type"}
    assert content["folder"] == "report_cases"
    assert "report_cases</code>, which must stay beside this page" in page.read_text()
    names = {path.name for path in folder.iterdir()}
    assert names == {INDEX_FILE, *(f"{number}.js" for number in range(6)), *(f"{number}.jpg" for number in range(4))}
    report(str(random_run.path))  # again: the folder is replaced
    assert {path.name for path in folder.iterdir()} == names
    (folder / INDEX_FILE).unlink()
    with pytest.raises(FileExistsError, match="is not the folder of a report"):
        report(str(random_run.path))
    assert {path.name for path in folder.iterdir()} == names - {INDEX_FILE}


@pytest.mark.parametrize("max_embedded", [3_000, 39], ids=["page", "folder"])
def test_items_are_filtered_sorted_and_searched(
    random_run: AnyRun, max_embedded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_browser, "MAX_EMBEDDED", max_embedded)
    monkeypatch.setattr(report_browser, "PAGE_SIZE", 7)
    report(str(random_run.path))
    records = {record.item_id: record for record in random_run.records}
    with open_page(random_run.path / "report.html") as page:
        open_list(page)
        assert titles(page) == list(records)[:20]
        settle(page, lambda: page.click("[data-role=next]"))
        assert titles(page) == list(records)[20:]

        choose(page, "group", "identification")
        assert titles(page) == [name for name, one in records.items() if one.group == "identification"]
        choose(page, "group", "")

        choose(page, "part", "door")
        assert set(titles(page)) == {
            name for name, one in records.items() if "door" in [part.label for part in one.true_parts]
        }
        choose(page, "part", "")

        wrong = [name for name, one in records.items() if verdict_of(one) == "wrong"]
        assert 0 < len(wrong) < len(records)
        choose(page, "verdict", "wrong")
        assert titles(page) == wrong[:20]
        choose(page, "verdict", "")

        for order, extreme in (("lowest", min), ("highest", max)):
            choose(page, "sort", order)
            scored = [name for name in titles(page) if records[name].quality is not None]
            qualities = [round(records[name].quality, 4) for name in scored]
            assert qualities == sorted(qualities, reverse=order == "highest")
            best = extreme(one.quality for one in records.values() if one.quality is not None)
            assert qualities[0] == round(best, 4)
        choose(page, "sort", "order")

        name = list(records)[-1]
        settle(page, lambda: page.fill("[data-role=search]", name))
        assert name in titles(page)
        assert len(titles(page)) < 20
        settle(page, lambda: page.fill("[data-role=search]", "no such words"))
        assert titles(page) == []


@pytest.mark.parametrize("max_embedded", [3_000, 39], ids=["page", "folder"])
def test_masks_are_isolated_and_pictures_zoomed(
    random_run: AnyRun, max_embedded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_browser, "MAX_EMBEDDED", max_embedded)
    report(str(random_run.path))
    with open_page(random_run.path / "report.html") as page:
        open_list(page)
        settle(page, lambda: page.fill("[data-role=search]", "wheel wing tail"))
        card = page.locator("#browser article").first
        colour = card.locator("button.chip").first.get_attribute("data-colour")
        assert card.locator(".mask.lit").count() == 0
        card.locator("button.chip").first.hover()
        lit = card.locator(".mask.lit")
        assert lit.count() >= 1
        assert {lit.nth(place).get_attribute("data-colour") for place in range(lit.count())} == {colour}
        assert card.locator(".mask:not(.lit)").count() > 0
        page.wait_for_timeout(250)
        opacity = "node => Number(getComputedStyle(node).opacity)"
        assert card.locator(".mask:not(.lit)").first.evaluate(opacity) < 0.1
        assert lit.first.evaluate(opacity) == 1

        view = card.locator("svg").first
        whole = view.get_attribute("viewBox")
        view.click()
        assert view.get_attribute("viewBox") != whole
        view.click()
        assert view.get_attribute("viewBox") == whole
        assert view.locator("image").evaluate("node => new Promise(done => { const one = new Image(); "
                                              "one.onload = () => done(one.naturalWidth); "
                                              "one.src = node.href.baseVal; })") > 0  # fmt: skip


@pytest.mark.parametrize("width", [390, 1400])
def test_no_page_scrolls_sideways(random_run: AnyRun, width: int) -> None:
    report(str(random_run.path))
    with open_page(random_run.path / "report.html", width) as page:
        open_list(page)
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_dark_pages_anchors_and_print(random_run: AnyRun) -> None:
    report(str(random_run.path))
    ground = "getComputedStyle(document.body).backgroundColor"
    with open_page(random_run.path / "report.html") as page:
        light = page.evaluate(ground)
        page.click("nav a[href='#provenance']")
        bar = page.locator("nav").bounding_box()
        page.click("nav a[href='#cases']")
        heading = page.locator("#cases h2").first.bounding_box()
        assert heading["y"] >= bar["height"], "the sticky bar covers the heading"
        page.emulate_media(media="print")
        style = page.locator("#browser article .chip").first.evaluate(
            "node => [getComputedStyle(node).printColorAdjust, getComputedStyle(node.closest('.case')).breakInside]"
        )
        assert style == ["exact", "avoid"]
    with open_page(random_run.path / "report.html", scheme="dark") as page:
        assert page.evaluate(ground) != light
