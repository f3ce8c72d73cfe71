"""The review in a browser when replies are late or refused, and when what was said is changed."""

import json
from typing import Any

from tests.server.browser import looked, needs_chromium, saved, signed_in, until
from tests.server.conftest import TOKEN, answers, count, listening, make
from trmml.curation.answers import Answer, Answers, new_id, now
from trmml.curation.standing import standing
from trmml.storage.hashes import hash_file

pytestmark = needs_chromium
NO_IMAGE = "0" * 64


def first_tile(page: Any) -> Any:
    tile = page.locator(".tile").first
    tile.wait_for()
    return tile


def heading(page: Any) -> str:
    first_tile(page)
    return page.locator("h1 em").inner_text()


def mode(page: Any, name: str) -> None:
    page.get_by_role("button", name=name).click()


def held_back(page: Any, pattern: str) -> list[Any]:
    """Requests that wait until the test lets them go on."""
    held: list[Any] = []
    page.route(pattern, lambda route: held.append(route))
    return held


def wait(page: Any, what: Any) -> None:
    """As `until`, while the page's requests are seen."""
    for _ in range(600):
        if what():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come")


def said(path: Any) -> list[str]:
    """What stands of the pairs present or absent, and was last said here."""
    return [state for _, state in standing(answers(path)).last.values()]


def test_a_late_reply_is_shown_under_no_other_heading(page) -> None:
    first_tile(page)
    held = held_back(page, "**/queue?kind=wrong*")
    mode(page, "Not there?")
    wait(page, lambda: held)
    mode(page, "Blocks")
    name = heading(page)
    mixed = [
        {"image": NO_IMAGE, "name": "a", "category": each, "was": "present", "p": 0.1,
         "why": "suspect", "likely": False} for each in ("red", "green")
    ]  # fmt: skip
    held[0].fulfill(json={"questions": mixed})
    page.wait_for_timeout(300)
    assert heading(page) == name and page.locator("h1", has_text="Which of these show").count()
    labels = [tile.get_attribute("aria-label") for tile in page.locator(".tile").all()]
    assert all(label.startswith(f"{name}, ") for label in labels)


def tiles_of(page: Any) -> set[str]:
    first_tile(page)
    return {tile.get_attribute("aria-label") for tile in page.locator(".tile").all()}


def test_two_tabs_are_asked_different_questions(browser, finished_run, toy_images, tmp_path):
    own = make(finished_run, toy_images, tmp_path)
    with listening(own.app) as port, signed_in(browser, port, TOKEN) as one:
        with signed_in(browser, port, TOKEN) as two:
            first = tiles_of(one)
            assert not first & tiles_of(two)
            one.reload()
            assert tiles_of(one) == first
            # What a copy of a tab begins with.
            assert one.evaluate("sessionStorage.getItem('page')") is None


def test_undo_goes_back_to_where_it_was_done(page, served) -> None:
    before, name = count(served.answers), heading(page)
    page.keyboard.press("y")
    mode(page, "Whole images")
    page.locator(".checks li").first.wait_for()
    shown = page.locator("figcaption bdi").inner_text()
    looked(page)
    page.keyboard.press("Enter")
    wait(page, lambda: page.locator("figcaption bdi").all_inner_texts() not in ([], [shown]))
    other = page.locator("figcaption bdi").inner_text()
    ticks = page.locator(".checks input:checked").count()
    page.keyboard.press("Space")
    changed = page.locator(".checks input:checked").count()
    assert changed != ticks
    mode(page, "Blocks")
    first_tile(page)
    page.keyboard.press("z")  # the whole image
    page.locator("figcaption bdi", has_text=shown).wait_for()
    looked(page)
    page.keyboard.press("s")
    page.locator("figcaption bdi", has_text=other).wait_for()
    assert page.locator(".checks input:checked").count() == changed  # what was ticked is there
    page.keyboard.press("z")
    page.locator("figcaption bdi", has_text=shown).wait_for()
    page.keyboard.press("z")  # the answer in the block
    assert heading(page) == name and "kind=learn" in page.url
    assert page.locator(".tile.present").count() == 0
    saved(page)
    until(lambda: count(served.answers) == before)


def test_undo_while_the_next_block_is_chosen_keeps_the_old_one(page, served) -> None:
    before, name = count(served.answers), heading(page)
    tiles = page.locator(".tile").count()
    held = held_back(page, "**/api/v1/answers")  # whoever asks for the next block waits for that
    looked(page)
    page.keyboard.press("Enter")
    page.locator(".wait").wait_for()
    page.keyboard.press("z")
    assert heading(page) == name
    for route in held:
        route.continue_()
    page.unroute("**/api/v1/answers")
    saved(page)
    page.wait_for_timeout(300)
    assert heading(page) == name and page.locator(".tile").count() == tiles
    assert page.locator(".tile.present, .tile.absent").count() == 0
    until(lambda: count(served.answers) == before)


def test_a_row_that_is_refused_lets_the_others_through(page, served) -> None:
    before = count(served.answers)
    first_tile(page)
    spoilt: list[str] = []

    def spoil(route: Any) -> None:
        """Give the first answer an image that the server lacks."""
        sent = route.request.post_data_json
        for row in sent["answers"]:
            if not spoilt:
                spoilt.append(row["id"])
            if row["id"] in spoilt:
                row["image"] = NO_IMAGE
        route.continue_(post_data=json.dumps(sent))

    page.route("**/api/v1/answers", spoil)
    for key in "yny":
        page.keyboard.press(key)
    page.locator(".aside").wait_for()
    assert "1 answer not taken: no image of this collection" in page.locator(".aside").inner_text()
    saved(page)
    assert count(served.answers) == before + 2
    page.reload()
    page.locator(".aside").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    (line,) = download.value.path().read_text().splitlines()
    assert json.loads(line)["id"] == spoilt[0] and NO_IMAGE in json.loads(line)["reason"]
    page.unroute("**/api/v1/answers")
    page.get_by_role("button", name="Send again").click()
    page.locator(".aside").wait_for(state="detached")
    saved(page)
    until(lambda: count(served.answers) == before + 3)


def test_answers_go_on_when_the_browser_lets_go_of_its_database(page, served) -> None:
    before = count(served.answers)
    first_tile(page)
    page.keyboard.press("y")
    saved(page)
    page.evaluate(
        """async () => {
          for (const { name } of await indexedDB.databases())
            await new Promise((done) => { indexedDB.deleteDatabase(name).onsuccess = done; });
        }"""
    )
    for key in "nn":
        page.keyboard.press(key)
    saved(page)
    until(lambda: count(served.answers) == before + 3)


def test_what_nobody_looked_at_changes_no_answer_of_another_page(page, served) -> None:
    mode(page, "Whole images")
    page.locator(".checks li").first.wait_for()
    shown = page.locator("figcaption bdi").inner_text()
    name = page.locator(".checks li bdi").last.inner_text()  # not ticked, so it would be absent
    before = {row.id for row in answers(served.answers)}
    sha256 = hash_file(served.images / shown)
    with Answers(served.answers) as journal:
        journal.add([Answer(new_id(), now(), "", shown, sha256, name, "present", "unknown", None,
                            "learn", "")])  # fmt: skip
    looked(page)
    page.keyboard.press("Enter")
    saved(page)
    new = [row for row in answers(served.answers) if row.id not in before]
    assert len(new) > 1 and {row.image for row in new} == {shown}
    assert [row.answer for row in new if row.category == name] == ["present"]


def test_what_is_asked_again_is_not_accepted_with_the_rest(page, served, monkeypatch) -> None:
    monkeypatch.setattr("trmml.curation.queue.GOLD_SHARE", 1.0)
    name = sorted(path.name for path in served.images.glob("*.png"))[0]
    with Answers(served.answers) as journal:
        journal.add([Answer(new_id(), now(), "", name, hash_file(served.images / name), "red",
                            "present", "unknown", None, "learn", "")])  # fmt: skip
    first_tile(page)
    page.locator(".pick select").select_option("red")
    page.locator("h1 em", has_text="red").wait_for()
    looked(page)
    page.keyboard.press("Enter")
    page.locator(".hint", has_text="was answered before").wait_for()
    assert page.locator(".tile:not(.present):not(.absent)").count() == 1
    page.keyboard.press("y")
    saved(page)
    assert answers(served.answers)[-1].why == "gold"


def test_a_key_that_is_held_accepts_one_block(page, served) -> None:
    before, name = count(served.answers), heading(page)
    tiles = page.locator(".tile").count()
    looked(page)
    page.keyboard.down("Enter")
    wait(page, lambda: page.locator("h1 em").all_inner_texts() not in ([], [name]))
    for _ in range(10):
        page.keyboard.down("Enter")  # as a keyboard repeats it
        page.wait_for_timeout(60)
    page.keyboard.up("Enter")
    saved(page)
    assert count(served.answers) == before + tiles
    page.keyboard.press("z")
    assert heading(page) == name
    saved(page)
    until(lambda: count(served.answers) == before)


# At the first frame that shows another block.
ENTER_AT_ONCE = """(old) => new Promise((done) => {
  const press = () => document.body.dispatchEvent(
    new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
  const look = () => {
    const name = document.querySelector("h1 em")?.textContent;
    if (!name || name === old) return requestAnimationFrame(look);
    press();
    done(document.querySelectorAll(".tile:is(.present, .absent)").length);
  };
  press();
  look();
})"""


def test_a_block_that_nobody_has_seen_is_not_accepted(page, served) -> None:
    name = heading(page)
    looked(page)
    assert page.evaluate(ENTER_AT_ONCE, name) == 0
    page.wait_for_timeout(100)
    assert page.locator(".tile:is(.present, .absent)").count() == 0
    page.keyboard.press("z")
    assert heading(page) == name
    saved(page)


def test_what_was_said_is_said_otherwise_and_taken_back_step_by_step(page, served) -> None:
    before = count(served.answers)
    tile = first_tile(page)
    first, second = (
        ("absent", "present") if "likely" in tile.get_attribute("class") else ("present", "absent")
    )

    def shows(state: str) -> bool:
        return state in tile.get_attribute("class").split()

    tile.dblclick()  # which is one click
    assert shows(first) and page.locator("dialog").count() == 0
    saved(page)
    old = said(served.answers)
    tile.click()
    assert shows(second)
    saved(page)
    assert count(served.answers) == before + 1 and said(served.answers) != old
    tile.hover()
    tile.locator(".corner").click()
    page.locator("dialog").get_by_role("button", name="Unsure").click()
    assert shows("unsure")
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    for state in (second, first):
        page.keyboard.press("z")
        assert shows(state)
    saved(page)
    assert count(served.answers) == before + 1 and said(served.answers) == old
    page.keyboard.press("z")
    assert not shows(first)
    saved(page)
    assert count(served.answers) == before


def test_two_pages_send_what_both_made(page, served) -> None:
    before = count(served.answers)
    first_tile(page)
    other = page.context.new_page()
    other.goto(page.url)
    first_tile(other)
    for each in (page, other):
        each.route("**/api/v1/answers", lambda route: route.abort())
        each.keyboard.press("y")
        each.locator(".bar", has_text="kept here").wait_for()
    page.unroute("**/api/v1/answers")
    saved(page)  # which has sent what lay in the box that both have
    saved(other)  # though it may still send nothing
    other.unroute("**/api/v1/answers")
    assert count(served.answers) >= before + 1  # of one pair, or of two
    assert len(answers(served.answers)) == len({row.id for row in answers(served.answers)})
    for each in (page, other):
        each.keyboard.press("z")
        saved(each)
    assert count(served.answers) == before


def test_a_server_that_was_gone_is_noticed_without_anything_to_send(page) -> None:
    first_tile(page)
    page.context.set_offline(True)
    page.keyboard.press("Space")  # asks for the map
    page.locator(".bar", has_text="It is asked again").wait_for()
    page.context.set_offline(False)
    page.locator(".bar").wait_for(state="detached")


def test_the_way_back_outlives_other_pages_and_a_reload(page, served) -> None:
    before, name = count(served.answers), heading(page)
    page.keyboard.press("y")
    page.keyboard.press("y")
    saved(page)
    page.get_by_role("link", name="Tag").click()
    page.locator(".drop").wait_for()
    page.go_back()
    first_tile(page)
    assert page.locator(".tile.present").count() == 2
    page.keyboard.press("z")
    assert page.locator(".tile.present").count() == 1
    saved(page)
    page.reload()
    first_tile(page)
    page.keyboard.press("z")
    assert heading(page) == name and page.locator(".tile.present").count() == 0
    saved(page)
    assert count(served.answers) == before
    assert page.get_by_role("button", name="Undo").is_disabled()


def test_answers_for_another_journal_wait(page, served) -> None:
    before = count(served.answers)
    first_tile(page)

    def rename(route: Any) -> None:
        sent = route.request.post_data_json | {"journal": "of another start"}
        route.continue_(post_data=json.dumps(sent))

    page.route("**/api/v1/answers", rename)
    page.keyboard.press("y")
    page.locator(".bar", has_text="another journal").wait_for()
    assert "1 answer is kept here" in page.locator(".bar").inner_text()
    assert count(served.answers) == before
    page.unroute("**/api/v1/answers")
    saved(page)
    assert count(served.answers) == before + 1
    page.locator(".bar").wait_for(state="detached")
    page.keyboard.press("z")
    saved(page)


def test_keys_of_whole_images_say_what_they_say_in_blocks(page) -> None:
    mode(page, "Whole images")
    box = page.locator(".checks input").first
    box.wait_for()
    name = page.locator(".checks bdi").first.inner_text()
    for key, state in (("y", True), ("y", True), ("n", False), ("n", False), ("Space", True)):
        page.keyboard.press(key)
        assert box.is_checked() == state, key
    page.keyboard.press("n")
    assert f"{name}: absent" in page.get_by_role("status").inner_text()


def test_the_list_keeps_the_focus_and_its_keys(page, served) -> None:
    before, name = count(served.answers), heading(page)
    page.evaluate("localStorage.setItem('keys', 'off')")
    page.reload()
    page.keyboard.press("y")
    assert heading(page) == name and page.locator(".tile.present").count() == 0
    page.locator("[role=listbox]").focus()
    page.keyboard.press("ArrowRight")
    assert "here" in page.locator("#q1").get_attribute("class")
    told = set()
    for _ in range(2):
        page.keyboard.press("y")
        told.add(page.get_by_role("status").inner_text())
    assert len(told) == 2  # each is a change, so each is read aloud
    looked(page)
    page.keyboard.press("Enter")
    wait(page, lambda: page.locator("h1 em").all_inner_texts() not in ([], [name]))
    assert page.evaluate("document.activeElement.getAttribute('role')") == "listbox"
    for _ in range(3):
        page.keyboard.press("Control+z")
    saved(page)
    until(lambda: count(served.answers) == before)


def test_a_queue_that_is_refused_is_told(page) -> None:
    first_tile(page)
    page.route("**/queue?kind=missed*", lambda route: route.fulfill(
        status=500, json={"detail": "unexpected KeyError"}))  # fmt: skip
    mode(page, "Missed?")
    page.get_by_text("unexpected KeyError").wait_for()
    page.unroute("**/queue?kind=missed*")
    page.get_by_role("button", name="Ask again").click()
    page.get_by_text("unexpected KeyError").wait_for(state="detached")


def test_without_a_store_of_the_browser_answers_are_sent(page, served) -> None:
    before = count(served.answers)
    page.add_init_script("IDBFactory.prototype.open = () => { throw new Error('refused') }")
    page.reload()
    first_tile(page)
    page.keyboard.press("y")
    saved(page)
    until(lambda: count(served.answers) == before + 1)
    page.keyboard.press("z")
    saved(page)


def test_where_nothing_is_kept_nothing_is_answered(
    browser, finished_run, toy_images, tmp_path
) -> None:
    closed = make(finished_run, toy_images, tmp_path, read_only=True)
    with listening(closed.app) as port, signed_in(browser, port, TOKEN) as page:
        first_tile(page)
        page.get_by_text("--read-only").wait_for()
        assert page.get_by_role("button", name="Present").is_disabled()
        page.keyboard.press("y")
        page.locator(".tile").first.click()
        assert page.locator(".tile:is(.present, .absent)").count() == 0
