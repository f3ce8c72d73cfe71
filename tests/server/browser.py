"""Debian's Chromium, driven by Playwright; pages that leave the machine or fail are noticed."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: apt-get install chromium"
)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def signed_in(browser: Any, port: int, token: str, **how: Any) -> Iterator[Any]:
    """A page that is signed in; it must ask nobody else, and throw no error."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 860}} | how))
    page = context.new_page()
    page.set_default_timeout(30_000)
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(f"dialog: {dialog.message}"))
    page.goto(f"http://127.0.0.1:{port}/review#t={token}")
    page.wait_for_selector("main > *")
    yield page
    context.close()
    home = f"http://127.0.0.1:{port}/"
    assert [url for url in asked if not url.startswith(home)] == []
    assert errors == []


def until(what: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def saved(page: Any) -> None:
    """Wait until the server has all that the page knows."""
    page.locator(".saved[data-unsaved='0']").wait_for()


def looked(page: Any) -> None:
    """Wait as long as a block or an image must have been there before it is accepted."""
    page.wait_for_timeout(350)
