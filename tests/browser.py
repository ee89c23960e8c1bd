"""A real browser for tests of the page: Debian's chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a camera that shows a moving pattern
]


@contextmanager
def launch() -> Iterator[Browser]:
    """A headless browser; skips the test, saying why, where none is installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def drop_file(page: Page, path: Path) -> None:
    """Drag the file at `path` in, and drop it near the viewport's corner."""
    _drop(page, {"items": [], "files": [str(path)]})


def drop_text(page: Page, text: str, *, mime_type: str = "text/plain") -> None:
    """Drag text in, and drop it near the viewport's corner; text/uri-list for a link."""
    _drop(page, {"items": [{"mimeType": mime_type, "data": text}]})


def _drop(page: Page, data: dict) -> None:
    """Let the browser itself make the events: it drops nothing on a page that takes no drag."""
    session = page.context.new_cdp_session(page)
    data["dragOperationsMask"] = 1
    for event in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": event, "x": 5, "y": 5, "data": data})
    session.detach()
