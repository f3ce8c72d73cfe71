"""The images of docs/serve.md: `python -m tests.server.screenshots runs/demo photos.index`."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.server.browser import chromium, signed_in

IMAGES = Path(__file__).parents[2] / "docs" / "images"
# GitHub shows a page's images at about this width.
VIEW = {"width": 1120, "height": 760}


def shoot(page: Any, name: str) -> None:
    """Write what the page shows."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(700)  # images that were decoded are painted
    page.screenshot(path=IMAGES / f"serve-{name}.jpg", type="jpeg", quality=72)


def every(page: Any, home: str, run: Path) -> None:
    """Each page, with something to see."""
    page.locator(".tile").first.wait_for()
    for key in ("y", "n", "y"):
        page.keyboard.press(key)
    shoot(page, "review")
    page.goto(f"{home}review?kind=images")
    page.locator(".checks li").first.wait_for()
    shoot(page, "whole")
    page.goto(f"{home}tag")
    new = sorted((run / "data" / "new" / "images").iterdir())
    page.set_input_files("input[type=file]", new[:4])
    page.locator(".card .tags").nth(3).wait_for()
    page.locator(".tag").first.click()
    page.locator(".alike img").first.wait_for()
    shoot(page, "tag")
    page.goto(f"{home}search")
    page.locator(".field input").first.fill("a dog beside a tree")
    page.locator(".add").fill("dog")
    page.keyboard.press("Enter")
    page.locator(".hits .tile").first.wait_for()
    shoot(page, "search")
    page.goto(f"{home}run")
    page.locator(".bars li").first.wait_for()
    shoot(page, "run")


def main(run: Path, index: Path) -> None:
    """Serve the demo's run, and take an image of each page."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-u", "-m", "trmml", "serve", run, "--index", index, "--port", "0"]
        process = subprocess.Popen(
            [*map(str, words), "--answers", f"{folder}/answers.sqlite"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        home, _, token = process.stdout.readline().strip().partition("#t=")
        port = int(home.rstrip("/").rpartition(":")[2])
        try:
            with chromium() as browser, signed_in(browser, port, token, viewport=VIEW) as page:
                every(page, home, run)
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
