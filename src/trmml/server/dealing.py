"""Which page was given which questions, so that two people are not asked the same."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from trmml.curation.live_pairs import NOTHING, Held
from trmml.curation.queue import Question

# For so long a page has what it was given to itself; then it may be closed, or its person gone.
HELD_SECONDS = 600.0
# After so long without a question, what a page was given is forgotten; of more pages than so many
# the one that asked first is.
KEPT_SECONDS, MOST_PAGES = 86_400.0, 200


@dataclass
class _Page:
    """When a page was given each pair, and each whole image; and when it asked last."""

    pairs: dict[tuple[int, str], float] = field(default_factory=dict)
    images: dict[int, float] = field(default_factory=dict)
    at: float = 0.0


class Dealer:
    """Deals questions out to pages. What another page holds comes when nothing else is left.

    A page is whatever names itself: a tab of a browser, or a script.

    Args:
        alike: whether all pages may be given the same, as where nobody answers.
        clock: seconds since any moment; it never goes back.
    """

    def __init__(self, *, alike: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._alike, self._clock = alike, clock
        self._pages: dict[str, _Page] = {}

    def block(self, page: str, ask: Callable[[Held], list[Question]]) -> list[Question]:
        """A block for a page.

        Args:
            page: that asks.
            ask: the questions without those held.
        """
        own = self._page(page)
        found = ask(self._others(own)) or ask(NOTHING)
        own.pairs.update({(each.place, each.category): own.at for each in found})
        return found

    def images(
        self, page: str, ask: Callable[[frozenset[int]], list[list[Question]]], *, anew: bool
    ) -> list[list[Question]]:
        """Whole images for a page, none of them twice, each with all its questions.

        Args:
            page: that asks.
            ask: the images but some, by their places.
            anew: what the page was given before may come again.
        """
        own = self._page(page)
        if anew:
            own.images.clear()
        shown = frozenset(own.images)
        found = ask(shown | self._others(own).images) or ask(shown)
        own.images.update({questions[0].place: own.at for questions in found})
        return found

    def _page(self, name: str) -> _Page:
        now = self._clock()
        recent = {n: p for n, p in self._pages.items() if now - p.at < KEPT_SECONDS}
        own = recent.pop(name, _Page())
        own.at = now
        # The page that asked last comes last.
        self._pages = {**dict(list(recent.items())[1 - MOST_PAGES :]), name: own}
        for page in self._pages.values():
            page.pairs = {pair: at for pair, at in page.pairs.items() if now - at < HELD_SECONDS}
        return own

    def _others(self, own: _Page) -> Held:
        """What other pages have to themselves."""
        if self._alike:
            return NOTHING
        begin = own.at - HELD_SECONDS
        others = [page for page in self._pages.values() if page is not own]
        return Held(
            frozenset(pair for page in others for pair in page.pairs),
            frozenset(image for page in others for image, at in page.images.items() if at > begin),
        )
