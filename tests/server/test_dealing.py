from pathlib import Path

from trmml.curation.live_pairs import NOTHING, Held
from trmml.curation.queue import Question
from trmml.server.dealing import HELD_SECONDS, KEPT_SECONDS, MOST_PAGES, Dealer


class Table:
    """Questions about eight images, two at a time, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.dealer = Dealer(clock=lambda: self.now)
        self.answered = set[int]()

    def block(self, page: str) -> list[int]:
        def ask(held: Held) -> list[Question]:
            free = [n for n in range(8) if n not in self.answered and not held.has(n, "cat")]
            return [question(n) for n in free[:2]]

        return [asked.place for asked in self.dealer.block(page, ask)]

    def images(self, page: str, *, anew: bool = False) -> list[int]:
        def ask(without: frozenset[int]) -> list[list[Question]]:
            free = [n for n in range(8) if n not in self.answered | without]
            return [[question(n)] for n in free[:2]]

        return [asked[0].place for asked in self.dealer.images(page, ask, anew=anew)]


def question(place: int) -> Question:
    return Question(place, str(place), Path(str(place)), "cat", "unknown", 0.5, "learn")


def test_what_a_page_holds_is_not_given_to_another_until_it_lapses() -> None:
    table = Table()
    assert (table.block("a"), table.block("b"), table.block("a")) == ([0, 1], [2, 3], [0, 1])
    table.answered |= {0, 1}
    assert table.block("a") == [4, 5]
    table.now = HELD_SECONDS - 1
    assert table.block("b") == [2, 3]  # held anew from here on
    table.now = HELD_SECONDS
    assert table.block("b") == [2, 3] and table.block("c") == [4, 5]


def test_where_nobody_answers_all_see_the_same() -> None:
    table = Table()
    table.dealer = Dealer(alike=True, clock=lambda: table.now)
    assert [table.block(page) for page in "ab"] == [[0, 1], [0, 1]]
    assert [table.images(page) for page in "aba"] == [[0, 1], [0, 1], [2, 3]]


def test_what_is_remembered_is_bounded() -> None:
    table = Table()
    for number in range(3 * MOST_PAGES):
        table.block(f"page {number}")
        assert len(table.dealer._pages) <= MOST_PAGES
    table.now = HELD_SECONDS
    table.block("another")
    assert sum(len(page.pairs) for page in table.dealer._pages.values()) == 2


def test_what_others_hold_comes_when_nothing_else_is_left() -> None:
    table = Table()
    pages = [table.block(page) for page in "abcde"]
    assert pages == [[0, 1], [2, 3], [4, 5], [6, 7], [0, 1]]
    table.answered |= set(range(8))
    assert table.block("a") == []


def test_whole_images_come_once_for_a_page_and_to_one_page_at_a_time() -> None:
    table = Table()
    assert [table.images(page) for page in "abab"] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert table.images("b") == [0, 1]  # passed over by the other
    assert table.block("c") == [0, 1]  # each of them is held, and nothing else is left
    # Beginning anew takes nothing from the other page.
    table.answered |= {2, 3}
    assert table.images("b", anew=True) == [6, 7]
    table.now = KEPT_SECONDS
    assert table.images("a") == [0, 1]


def test_held_names_images_and_pairs() -> None:
    held = Held(frozenset({(3, "cat"), (4, "dog")}), frozenset({1}))
    assert sorted(held.places("cat")) == [1, 3] and held.places("bird") == [1]
    assert held.has(1, "dog") and held.has(4, "dog") and not held.has(4, "cat")
    assert NOTHING.places("cat") == []
