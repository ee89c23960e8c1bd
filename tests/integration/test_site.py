"""The website: no dead links, nothing from other servers, and what its scripts do in a browser."""

import html
import re
import subprocess
import sys
from urllib.parse import quote

import pytest

from tests import browser
from tutorial.services import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site; a link to a page or a heading that does not exist is an error."""
    folder = tmp_path_factory.mktemp("site")
    options = ["-c", "docs", "-d", folder / "doctrees", "-W", "--keep-going", "--quiet"]
    command = [sys.executable, "-m", "sphinx", *options, ".", folder / "html"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder / "html"


def test_site_has_a_page_for_each_lesson(site):
    lessons = {path.relative_to(ROOT).with_suffix("") for path in ROOT.glob("notebooks/**/*.ipynb")}
    pages = {path.relative_to(site).with_suffix("") for path in site.glob("notebooks/**/*.html")}
    assert lessons <= pages


def test_pages_load_nothing_from_other_servers(site):
    loaded = re.compile(
        r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?:https?:)?//[^>]*"""
        r"""|(?:url\(|@import )["']?(?:https?:)?//[^)]*"""
    )
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    found = {path.name: loaded.findall(path.read_text()) for path in files}
    assert {name: urls for name, urls in found.items() if urls} == {}


def test_each_picture_has_a_text_in_its_place(site):
    pictures = [
        tag for page in site.rglob("*.html") for tag in re.findall("<img[^>]*>", page.read_text())
    ]
    assert pictures and [tag for tag in pictures if not re.search(r'alt="[^"]', tag)] == []


def test_each_message_of_the_project_has_an_entry(site):
    page = (site / "docs/error-messages.html").read_text()
    listed = " ".join(html.unescape(re.sub("<[^>]+>", "", page)).split())
    raised = re.compile(r"""raise \w*Error\(\s*f?(["'])([^{}\n]{12,}?)(?:\1|[{}])""")
    found = [
        text
        for package in ("tutorial", "gateway", "model_server")
        for path in (ROOT / package).rglob("*.py")
        for _, text in raised.findall(path.read_text())
    ]
    assert len(found) > 50
    assert [text for text in found if " " in text and text not in listed] == []


def test_search_finds_each_error_message(site):
    text = (ROOT / "docs/error-messages.md").read_text()
    messages = re.findall("^### [^`\n]*`(.+?)`", text, re.MULTILINE)
    messages.append("port is in use: stop the program that listens there")  # of this project
    with browser.launch() as chromium:
        page = chromium.new_page()
        for message in messages:
            page.goto(f"{(site / 'search.html').as_uri()}?q={quote(message)}")
            page.locator("#search-results li a[href*='error-messages']").first.wait_for()


def test_menu_opens_on_a_phone(site):
    with browser.launch() as chromium:
        page = chromium.new_page(viewport={"width": 390, "height": 844})
        page.goto((site / "docs/gateway.html").as_uri())
        lesson = page.get_by_role("link", name="01 · Convert the model")
        assert not lesson.is_visible()
        page.locator(".primary-toggle:visible").click()
        lesson.click()
        page.wait_for_url("**/01-convert-model.html")
