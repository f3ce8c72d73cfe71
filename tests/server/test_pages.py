"""The pages in a browser, as a person uses them."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TOY_SPEC
from tests.server.browser import looked, needs_chromium, saved, signed_in, until
from tests.server.conftest import STRANGE, TOKEN, Served, answers, count, listening, make
from trmml.search.build import build_index
from trmml.server.guard import LOOPBACK, Gate
from trmml.server.site import Wish, open_site, unlabelled
from trmml.training.run_folder import card_sum

pytestmark = needs_chromium
# What each page holds when it is there: a placeholder has a heading, too.
PAGES = {
    "/tag": ".card .why",
    "/review": ".tile",
    "/review?kind=images": ".checks li",
    "/search": ".hits .tile",
    "/run": ".bars li",
    "/api": ".way",
}


@pytest.fixture(scope="module")
def served(finished_run, toy_images, tmp_path_factory) -> Served:
    """With an index, too."""
    folder = tmp_path_factory.mktemp("pages")
    index = folder / "index"
    build_index(finished_run, toy_images.test, index, encoder=TOY_SPEC)
    return make(finished_run, toy_images, folder, index=index)


def test_images_that_are_dropped_get_tags(page, served) -> None:
    page.goto(page.url.replace("/review", "/tag"))
    files = sorted(served.images.iterdir())
    page.set_input_files("input[type=file]", [files[3], served.images / STRANGE])
    page.locator(".card .tags").nth(1).wait_for()
    page.get_by_text("Also what is below").click()
    page.locator(".tag").nth(7).wait_for()
    assert STRANGE in page.locator(".card h2").all_inner_texts()  # and no script ran
    page.locator(".tag").first.hover()
    page.locator(".heat").first.wait_for()
    page.locator(".tag").first.click()
    assert "threshold" in page.locator(".why").first.inner_text()


DROP = """(text) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], "a.png"));
  const how = {dataTransfer: files, bubbles: true, cancelable: true};
  return ["dragover", "drop"].map((kind) => !document.body.dispatchEvent(new DragEvent(kind, how)));
}"""


@pytest.mark.parametrize("path", ["/tag", "/search"])
def test_a_file_that_is_dropped_beside_its_place_is_taken(page, served, path) -> None:
    page.goto(page.url.replace("/review", path))
    page.locator("main h1").wait_for(state="attached")
    image = base64.b64encode(next(served.images.iterdir()).read_bytes()).decode()
    assert page.evaluate(DROP, image) == [True, True]  # the browser opens nothing
    page.locator(".card .tags" if path == "/tag" else "dialog.large").wait_for()


def test_a_file_that_is_no_image_is_told(page, tmp_path) -> None:
    page.goto(page.url.replace("/review", "/tag"))
    (tmp_path / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    page.set_input_files("input[type=file]", tmp_path / "a.svg")
    page.locator(".card .error").wait_for()
    assert "SVG" in page.locator(".card .error").inner_text()


def test_a_block_by_keys_alone_then_taken_back(page, served) -> None:
    before = count(served.answers)
    page.locator(".tile").first.wait_for()
    tiles = page.locator(".tile").count()
    name = page.locator("h1 em").inner_text()
    for key in ("y", "n", "u", "s"):
        page.keyboard.press(key)
    for state in ("present", "absent", "unsure", "skip"):
        assert page.locator(f".tile.{state}").count() >= 1, state
    looked(page)
    page.keyboard.press("Enter")
    until(lambda: page.locator("h1 em").all_inner_texts() not in ([], [name]))
    saved(page)
    until(lambda: count(served.answers) == before + tiles)
    assert {row.category for row in answers(served.answers)[-tiles:]} == {name}
    for _ in range(5):  # the rest, and each of the four
        page.keyboard.press("Control+z")
    assert page.locator("h1 em").inner_text() == name
    assert page.locator(".tile.present, .tile.absent, .tile.unsure, .tile.skip").count() == 0
    saved(page)
    until(lambda: count(served.answers) == before)


def test_a_click_is_the_exception(page, served) -> None:
    before = count(served.answers)
    tile = page.locator(".tile").nth(1)
    likely = "likely" in (tile.get_attribute("class") or "")
    tile.click()
    assert ("absent" if likely else "present") in (tile.get_attribute("class") or "")
    saved(page)
    until(lambda: count(served.answers) == before + 1)


def test_a_whole_image_with_its_ticks(page, served) -> None:
    before = count(served.answers)
    page.get_by_role("button", name="Whole images").click()
    page.locator(".checks li").first.wait_for()
    open_pairs = page.locator(".checks li").count()
    ticks = page.locator(".checks input:checked").count()
    page.keyboard.press("Space")
    assert page.locator(".checks input:checked").count() != ticks
    looked(page)
    page.keyboard.press("Enter")
    saved(page)
    until(lambda: count(served.answers) == before + open_pairs)
    page.keyboard.press("z")
    saved(page)
    until(lambda: count(served.answers) == before)


def test_large_with_a_region_map(page) -> None:
    page.locator(".tile").first.wait_for()
    page.keyboard.press("Space")
    page.locator("dialog .heat").wait_for()
    page.keyboard.press("m")
    page.locator("dialog .heat").wait_for(state="detached")
    page.keyboard.press("Space")
    page.locator("dialog").wait_for(state="detached")
    page.keyboard.press("?")
    page.get_by_text("Single keys do things").click()
    page.keyboard.press("Escape")
    page.keyboard.press("y")
    assert page.locator(".tile.present").count() == 0  # they are off


def test_offline_and_back(page, served) -> None:
    before = count(served.answers)
    page.locator(".tile").first.wait_for()
    page.context.set_offline(True)
    page.keyboard.press("y")
    page.keyboard.press("n")
    page.locator(".bar").wait_for()
    assert "2 answers are kept here" in page.locator(".bar").inner_text()
    assert page.locator(".saved[data-unsaved='2']").count() == 1 and count(served.answers) == before
    page.context.set_offline(False)
    saved(page)
    page.locator(".bar").wait_for(state="detached")
    assert count(served.answers) == before + 2


def test_a_part_of_an_image_is_searched_for(page) -> None:
    page.goto(page.url.replace("/review", "/search"))
    page.locator(".add").fill("red")
    page.keyboard.press("Enter")
    page.locator(".hits .tile").first.wait_for()
    page.locator(".hits .tile").first.click()
    image = page.locator(".pickable img")
    image.evaluate("image => image.decode()")
    page.wait_for_timeout(200)
    image.hover()  # which waits until it stays where it is: loaded, it gets its size
    area = image.bounding_box()
    with page.expect_request("**/api/v1/search") as asked:
        page.mouse.move(area["x"] + 0.1 * area["width"], area["y"] + 0.2 * area["height"])
        page.mouse.down()
        page.mouse.move(area["x"] + 0.6 * area["width"], area["y"] + 0.7 * area["height"], steps=4)
        page.mouse.up()
    sent = asked.value.post_data_json
    assert sent["tags"] == ["red"] and len(sent["like"]) == 64
    assert sent["box"] == pytest.approx([0.1, 0.2, 0.6, 0.7], abs=0.02)
    page.get_by_text("like a part of this").wait_for()
    page.locator(".hits .tile").first.wait_for()
    page.get_by_text("Only what chance hardly reaches").click()
    page.get_by_text("nothing is shown").wait_for()


def test_a_part_is_named_by_numbers_with_keys_alone(page) -> None:
    page.goto(page.url.replace("/review", "/search"))
    page.locator(".add").fill("no such tag")
    page.keyboard.press("Enter")
    page.get_by_text('has no tag "no such tag"').wait_for()
    page.locator(".group button", has_text="red").press("Enter")
    page.locator(".hits .tile").first.press("Enter")
    page.locator("dialog summary").press("Enter")
    page.get_by_label("Left").fill("10")
    with page.expect_request("**/api/v1/search") as asked:
        page.keyboard.press("Enter")
    assert asked.value.post_data_json["box"] == [0.1, 0.25, 0.75, 0.75]
    page.get_by_text("like a part of this").wait_for()


def test_tiles_of_another_size_are_remembered(page, served) -> None:
    before = count(served.answers)

    def width() -> float:
        page.locator(".tile").first.wait_for()
        return page.locator(".tile").first.bounding_box()["width"]

    first = width()
    page.keyboard.press("+")
    page.keyboard.press("+")
    large = width()
    assert large > 1.2 * first
    page.reload()
    assert width() == large
    slider = page.get_by_label("Size")
    slider.focus()
    page.keyboard.press("Home")
    small = width()
    assert small < first and slider.input_value() == "-2"
    page.keyboard.press("ArrowRight")  # the slider's, not the block's
    assert slider.input_value() == "-1" and "here" in page.locator("#q0").get_attribute("class")
    page.goto(page.url.replace("/review", "/search"))
    page.locator(".group button", has_text="red").click()
    page.locator(".hits .tile").first.wait_for()
    assert page.get_by_label("Size").input_value() == "-1"
    assert count(served.answers) == before


def filled(page: Any, port: int, image: Path) -> Iterator[str]:
    """Each page in turn, once it holds what it is for, and its dialogs."""
    for path, what in PAGES.items():
        page.goto(f"http://127.0.0.1:{port}{path}")
        if path == "/tag":
            page.set_input_files("input[type=file]", image)
            page.locator(".card .tags").wait_for()
            page.get_by_text("Also what is below").click()
            page.locator(".tag").first.click()
        if path == "/search":
            page.locator(".group button", has_text="red").click()
        page.locator(what).first.wait_for()
        yield path
        if path in ("/review", "/search"):
            # Over a page that another size of tiles has scrolled.
            page.locator(".corner" if path == "/review" else ".hits .tile").first.click()
            page.locator("dialog.large").wait_for()
            yield f"{path}, enlarged"


def test_twice_as_large_nothing_is_cut_off(browser, served, port) -> None:
    """A zoom of 200 % leaves half of the pixels of a style sheet."""
    image = served.images / STRANGE
    for width in (640, 400):
        view = {"width": width, "height": 430}
        with signed_in(browser, port, TOKEN, viewport=view, device_scale_factor=2) as page:
            page.evaluate("localStorage.setItem('tiles', '4')")
            for name in filled(page, port, image):
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"{name} at {width}"
                inner = "[...document.querySelectorAll('dialog')].map(d => d.scrollWidth)"
                assert all(each <= width for each in page.evaluate(inner)), f"{name} at {width}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, served, port, scheme) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with signed_in(browser, port, TOKEN, color_scheme=scheme) as page:
        for name in filled(page, port, served.images / STRANGE):
            found = Axe().run(page).response["violations"]
            serious = [
                (each["id"], [node["html"][:200] for node in each["nodes"]][:3])
                for each in found
                if each["impact"] in ("serious", "critical")
            ]
            assert serious == [], name


# What a stranger might call a category; no file's name can hold the end of a script.
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="module")
def evil_port(finished_run, toy_images, tmp_path_factory):
    """A run with that category, images and an index with a file of the like."""
    folder = tmp_path_factory.mktemp("evil")
    run, images, index = folder / "run", folder / "images", folder / "index"
    shutil.copytree(finished_run, run)
    tree = json.loads((run / "model.json").read_text().replace('"red"', json.dumps(EVIL)))
    (run / "model.json").write_text(json.dumps(tree | {"card_sha256": card_sum(tree)}))
    shutil.copytree(toy_images.test, images)
    for number, path in enumerate(sorted(images.iterdir())):
        path.rename(images / f"{number}{STRANGE}")
    build_index(run, images, index, encoder=TOY_SPEC)
    wish = Wish(run, unlabelled(images, run), index, folder / "a.sqlite", encoder=TOY_SPEC)
    with listening(open_site(wish, Gate(frozenset(LOOPBACK), TOKEN, 0)).app) as port:
        yield port


@pytest.fixture
def evil_page(browser, evil_port):
    """At the end, no page has made an element of a name; a dialog would be an error."""
    with signed_in(browser, evil_port, TOKEN) as page:
        yield page
        assert page.locator("main script, main [onerror], main img[src=x]").count() == 0


def test_a_script_in_a_name_stays_text_in_review(evil_page, evil_port) -> None:
    evil_page.get_by_label("Category").select_option(EVIL)
    evil_page.locator("h1 em", has_text=EVIL).wait_for()
    label = evil_page.locator(".tile").first.get_attribute("aria-label")
    assert EVIL in label and STRANGE in label
    evil_page.goto(f"http://127.0.0.1:{evil_port}/review?kind=images")
    evil_page.locator(".checks").get_by_text(EVIL).first.wait_for()
    assert STRANGE in evil_page.locator("figcaption").inner_text()


def test_a_script_in_a_name_stays_text_in_tags_and_figures(
    evil_page, evil_port, toy_images, tmp_path
) -> None:
    evil_page.goto(f"http://127.0.0.1:{evil_port}/run")
    evil_page.locator(".bars").get_by_text(EVIL).first.wait_for()
    evil_page.goto(f"http://127.0.0.1:{evil_port}/tag")
    shutil.copy(sorted(toy_images.test.iterdir())[0], tmp_path / STRANGE)
    evil_page.set_input_files("input[type=file]", tmp_path / STRANGE)
    evil_page.locator(".card .tags").wait_for()
    evil_page.locator(".card h2", has_text=STRANGE).wait_for()
    evil_page.get_by_text("Also what is below").click()
    evil_page.locator(".tag", has_text=EVIL).first.click()
    evil_page.locator(".why").first.wait_for()


def test_a_script_in_a_name_stays_text_in_search(evil_page, evil_port) -> None:
    evil_page.goto(f"http://127.0.0.1:{evil_port}/search")
    evil_page.locator(".add").fill(EVIL)
    evil_page.keyboard.press("Enter")
    evil_page.locator(".chip", has_text=EVIL).wait_for()
    first = evil_page.locator(".hits .tile").first
    first.wait_for()
    assert STRANGE in first.get_attribute("aria-label")
    found = evil_page.locator(".hits .foot").all_inner_texts()
    assert any(EVIL in text for text in found)
    first.click()
    evil_page.locator("dialog b", has_text=STRANGE).wait_for()
    evil_page.get_by_role("button", name="More like this").click()
    evil_page.locator(".chip", has_text="like this").wait_for()
    evil_page.locator(".hits .tile").first.wait_for()


def start(run: Path, images: Path, table: Path, answers: Path, port: int) -> tuple[Any, str]:
    """A server in a process of its own, and its address."""
    words = ["serve", run, "--images", images, "--labels", table, "--answers", answers]
    words += ["--port", port, "--encoder", TOY_SPEC]
    process = subprocess.Popen(
        [sys.executable, "-m", "trmml", *map(str, words)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        return process, process.stdout.readline().strip()


def test_killed_and_started_again_nothing_is_lost_and_nothing_twice(
    browser, finished_run, toy_images, tmp_path
) -> None:
    journal = tmp_path / "answers.sqlite"
    table = tmp_path / "labels.csv"
    names = [path.name for path in sorted(toy_images.train.iterdir())]
    lines = ["image,red,green,blue,yellow", f"{names[0]},1,0,,", f"{names[1]},0,1,,"]
    table.write_text("\n".join([*lines, *(f"{name},,,," for name in names[2:])]))
    process, address = start(finished_run, toy_images.train, table, journal, 0)
    port = int(address.partition("#")[0].rstrip("/").rpartition(":")[2])
    try:
        with signed_in(browser, port, address.partition("#t=")[2]) as page:
            page.locator(".tile").first.wait_for()
            page.keyboard.press("y")
            saved(page)
            until(lambda: count(journal) == 1)
            process.send_signal(signal.SIGKILL)
            process.wait()
            page.keyboard.press("n")
            page.keyboard.press("y")
            page.locator(".bar").wait_for()
            assert count(journal) == 1  # what was shown as saved
            process, _ = start(finished_run, toy_images.train, table, journal, port)
            saved(page)  # the cookie is good still
            page.keyboard.press("y")
            saved(page)
            rows = answers(journal)
            assert [row.answer for row in rows] == ["present", "absent", "present", "present"]
            assert len({row.sha256 for row in rows}) == 4
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
