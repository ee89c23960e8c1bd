"""The gateway's page in a real browser, before a gateway that gives prepared answers."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from math import exp
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from flask import Flask, render_template, request
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import drop_file, drop_text, launch
from tests.pictures import encoded
from tests.web_server import serve
from tutorial import ROOT
from tutorial.processes import wait_until

LOGITS = {"dress": -1.9, "hat": -4.8, "pants": 9.9, "shirt": -2.8, "shorts": 7.2, "skirt": -2.6}
LIMITS = {  # of this fake gateway, so that pictures over them need not be large
    "bytes": 100_000,
    "side": 3000,
    "pixels": {"JPEG": 1_000_000, "PNG": 3_000_000, "GIF": 1_000_000},
}
PICTURE = encoded(Image.new("RGB", (30, 40), "navy"))


def classification(scores: dict[str, float], logits: bool = True) -> dict:
    """What the gateway answers to /classify for such scores."""
    powers = {label: exp(score) if logits else score for label, score in scores.items()}
    whole = sum(powers.values()) if logits else 1
    ranked = sorted(scores, key=scores.get, reverse=True)
    return {
        "predictions": [
            {"label": label, "score": scores[label], "probability": powers[label] / whole}
            for label in ranked
        ],
        "unsure": False,
        "model": {"name": "starter", "version": 7},
        "seconds": {"decode": 0.004, "model": 1.2},
    }


def problem(status: int, **members) -> tuple:
    body = {"type": "about:blank", "status": status, **members}
    return body, status, {"Content-Type": "application/problem+json"}


ANSWER = classification(LOGITS)
TOP_ANSWER = "This looks like: pants (94%)"
CLIPBOARD = ["clipboard-read", "clipboard-write"]


class FakeGateway:
    """Serves the page, and answers /classify with `answer`, whatever Flask takes for one."""

    def __init__(self) -> None:
        folder = ROOT / "gateway"
        self.app = Flask(
            "fake", template_folder=folder / "templates", static_folder=folder / "static"
        )
        self.app.json.sort_keys = False
        self.app.get("/", endpoint="page")(lambda: render_template("index.html", **self.model))
        self.app.get("/photo.png", endpoint="photo")(
            lambda: (PICTURE, {"Content-Type": "image/png"})
        )
        self.app.post("/classify")(self.classify)
        self.app.after_request(self.strict)

    def reset(self) -> None:
        self.model = {"model_name": "starter", "scores": "logits", "labels": list(LOGITS)}
        self.model["limits"] = LIMITS
        self.answer = ANSWER
        self.requests: list[dict] = []
        self.held: threading.Event | None = None

    def hold_next_answer(self) -> threading.Event:
        """Give the next answer only when the event is set that this returns."""
        self.held = threading.Event()
        return self.held

    def wait_for_request(self) -> None:
        wait_until(lambda: self.requests, timeout=5, interval=0.01, what="the page to ask")

    def classify(self):
        answer, held, self.held = self.answer, self.held, None
        upload = request.files.get("file")
        self.requests.append(
            {"name": upload.filename, "bytes": upload.read()} if upload else request.get_json()
        )
        if held:
            held.wait(10)
        return answer

    def strict(self, response):
        policy = "default-src 'self'; img-src 'self' blob: data: https: http:"
        response.headers["Content-Security-Policy"] = policy
        return response


@pytest.fixture(scope="module")
def served() -> Iterator[FakeGateway]:
    gateway = FakeGateway()
    with serve(gateway.app) as gateway.origin:
        yield gateway


@pytest.fixture
def gateway(served: FakeGateway) -> FakeGateway:
    served.reset()
    return served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch() as browser:
        yield browser


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Page:
    """One tab for most tests, because a new one for each takes longer than the tests."""
    tab = browser.new_page()
    tab.context.grant_permissions(CLIPBOARD)
    # Playwright catches file choosers only after it has begun to listen; a key can be faster.
    tab.on("filechooser", lambda chooser: None)
    return tab


@pytest.fixture
def page(tab: Page, gateway: FakeGateway) -> Iterator[Page]:
    """The page, freshly loaded, in a window that may use the clipboard."""
    with loaded(tab, gateway):
        yield tab


@contextmanager
def opened(browser: Browser, gateway: FakeGateway, **options) -> Iterator[Page]:
    """The page in a new window with other options."""
    with browser.new_context(**options) as context, loaded(context.new_page(), gateway) as page:
        yield page


@contextmanager
def loaded(page: Page, gateway: FakeGateway) -> Iterator[Page]:
    """Load the page; fail if it logs an error, or sends a request to another host."""
    page.set_default_timeout(5000)
    page.clear_console_messages()
    page.clear_page_errors()
    page.goto(gateway.origin)
    yield page
    # The browser itself notes every 4xx, 5xx and failed request; those the tests make.
    noted = [
        message.text
        for message in page.console_messages(filter="all")
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text
    ]
    own = (f"{gateway.origin}/", f"blob:{gateway.origin}/")
    foreign = [sent.url for sent in page.requests() if not sent.url.startswith(own)]
    assert (noted, page.page_errors(filter="all"), foreign) == ([], [], [])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "blue jeans.png"
    path.write_bytes(PICTURE)
    return path


def headline(page: Page) -> Locator:
    return page.get_by_role("status").first


def expect_answer(page: Page, text: str = TOP_ANSWER) -> None:
    expect(headline(page)).to_have_text(text)


def expect_error(page: Page, text: str) -> None:
    expect(page.get_by_role("alert")).to_contain_text(text, use_inner_text=True)


def ask_by_address(page: Page, address: str) -> None:
    page.get_by_label("address of a photo").fill(address)
    page.get_by_role("button", name="Ask").click()


def bars(page: Page) -> list[tuple[str, str]]:
    """(label, percentage) of the bars, from the top, once there are any."""
    expect(page.locator("#best li").first).to_be_visible()
    rows = page.locator("#best li").all()
    return [(r.locator(".label").inner_text(), r.locator(".percent").inner_text()) for r in rows]


def curl_line(page: Page) -> str:
    return page.locator("#curl").text_content()


def shown_width(page: Page) -> int:
    image = page.locator("#photo img")
    return image.evaluate("image => image.decode().then(() => image.naturalWidth)")


# Ways to ask


def test_dropped_file_shows_photo_bars_top_answer_and_time(page, gateway, photo):
    drop_file(page, photo)
    expect_answer(page)
    percentages = [100 * each["probability"] for each in ANSWER["predictions"]]
    assert bars(page) == [
        (each["label"], f"{percentage:.1f}%" if percentage >= 0.05 else "<0.1%")
        for each, percentage in zip(ANSWER["predictions"], percentages, strict=True)
    ]
    widths = page.locator("#best .fill").evaluate_all("fills => fills.map(f => f.style.width)")
    assert [float(w.rstrip("%")) for w in widths] == pytest.approx(percentages, abs=1e-3)
    assert shown_width(page) == 30
    took = page.locator("#took").inner_text()
    assert took.startswith("Answered in ")
    assert took.endswith(": 4 ms to decode it, 1.2 s for the model (version 7)")
    assert json.loads(page.locator("#json").text_content()) == ANSWER
    assert gateway.requests == [{"name": photo.name, "bytes": PICTURE}]


def test_file_chosen_by_keyboard_is_sent_and_sent_again_when_chosen_again(page, gateway, photo):
    page.keyboard.press("Tab")
    ring = page.locator(".drop").evaluate("drop => getComputedStyle(drop).outlineStyle")
    assert ring == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(photo)
    expect_answer(page)
    with page.expect_response("**/classify"):
        page.get_by_label("Choose a photo").set_input_files(photo)
    assert gateway.requests == 2 * [{"name": photo.name, "bytes": PICTURE}]


def test_address_is_sent_and_its_photo_shown_if_the_browser_gets_it(page, gateway):
    address = f"{gateway.origin}/photo.png"
    ask_by_address(page, f"  {address} ")
    expect_answer(page)
    assert gateway.requests == [{"url": address}]
    assert shown_width(page) == 30

    missing = f"{gateway.origin}/missing.png"
    drop_text(page, missing, mime_type="text/uri-list")
    expect(page.locator("#photo")).to_have_text(missing)
    expect(page.locator("#photo img")).to_have_count(0)
    expect_answer(page)


def test_what_is_neither_photo_nor_web_address_is_not_sent(page, gateway, tmp_path):
    ask_by_address(page, "file:///etc/passwd")
    assert page.locator("#url:invalid").count() == 1
    drop_text(page, "javascript:alert(1)")
    expect_error(page, "neither a picture nor an address")
    (notes := tmp_path / "notes.txt").write_text("no photo")
    drop_file(page, notes)
    expect_error(page, "notes.txt is not a picture (text/plain)")
    (folder := tmp_path / "folder").mkdir()
    drop_file(page, folder)
    expect_error(page, "folder is a folder")
    assert gateway.requests == []


def test_pasted_picture_and_address_are_sent(page, gateway):
    page.evaluate(
        """async () => {
            const photo = await (await fetch("/photo.png")).blob();
            await navigator.clipboard.write([new ClipboardItem({"image/png": photo})]);
        }"""
    )
    page.keyboard.press("ControlOrMeta+V")
    expect_answer(page)
    assert gateway.requests.pop()["bytes"].startswith(b"\x89PNG")

    address = f"{gateway.origin}/photo.png"
    page.evaluate("text => navigator.clipboard.writeText(text)", address)
    with page.expect_response("**/classify"):
        page.keyboard.press("ControlOrMeta+V")
    assert gateway.requests.pop() == {"url": address}

    field = page.get_by_label("address of a photo")
    field.fill("")
    field.focus()
    page.keyboard.press("ControlOrMeta+V")
    expect(field).to_have_value(address)
    assert gateway.requests == []  # a field waits for Enter
    with page.expect_response("**/classify"):
        page.keyboard.press("Enter")
    assert gateway.requests == [{"url": address}]


def test_camera_photo_is_sent_and_escape_closes_the_camera(browser, gateway):
    with opened(browser, gateway, permissions=["camera"]) as page:
        page.get_by_role("button", name="Use the camera").click()
        page.get_by_role("button", name="Take the photo").click()
        expect_answer(page)
        with Image.open(BytesIO(gateway.requests[0]["bytes"])) as image:
            assert image.format == "JPEG"
            assert image.getcolors(3) is None  # not a black frame: something was seen
        assert shown_width(page) == image.width

        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#viewfinder")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#viewfinder")).to_be_hidden()
        is_off = "!document.querySelector('video').srcObject"
        wait_until(lambda: page.evaluate(is_off), timeout=10, what="the camera to be off again")
        assert len(gateway.requests) == 1


def test_missing_camera_is_explained(page, gateway):
    reject = (
        "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', '{}'))"
    )
    for script, words in (
        (reject.format("NotFoundError"), "No camera was found"),
        (reject.format("NotAllowedError"), "was not allowed"),
        (reject.format("NotReadableError"), "another program"),
        ("Object.defineProperty(navigator, 'mediaDevices', {value: null})", "https://"),
    ):
        page.evaluate(f"() => {{ {script} }}")
        page.get_by_role("button", name="Use the camera").click()
        expect_error(page, words)
    assert gateway.requests == []


@pytest.mark.parametrize(
    ("name", "picture", "reason", "size"),
    [
        ("bytes.png", Image.effect_noise((2500, 1000), 90), "the file has 2 MB", (2000, 800)),
        (
            "many.jpg",
            Image.new("L", (2500, 1000)),
            "the picture has 2500 × 1000 pixels",
            (2000, 800),
        ),
        ("long.png", Image.new("L", (4000, 100)), "the picture has 4000 × 100 pixels", (2000, 50)),
        ("new.avif", Image.new("RGBA", (90, 40)), "the gateway does not read AVIF", (90, 40)),
    ],
)
def test_picture_that_the_gateway_would_not_take_is_sent_as_a_jpeg(
    page, gateway, tmp_path, name, picture, reason, size
):
    picture.save(tmp_path / name)
    drop_file(page, tmp_path / name)
    expect(page.locator("#took")).to_contain_text(f"sent as a JPEG: {reason}")
    expect(page.locator("#curl")).to_contain_text(f"{name}'  # the page sent a small JPEG of it")
    [sent] = gateway.requests
    assert sent["name"] == name
    with Image.open(BytesIO(sent["bytes"])) as image:
        assert (image.format, image.size) == ("JPEG", size)
        if picture.mode == "RGBA":  # transparent: white shows through
            assert image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("photo", encoded(Image.new("RGB", (90, 40)), "JPEG"), id="without an ending"),
        pytest.param("large.png", bytes(2 * LIMITS["bytes"]), id="not readable"),
    ],
)
def test_picture_that_the_gateway_should_judge_is_sent_as_it_is(
    page, gateway, tmp_path, name, data
):
    (tmp_path / name).write_bytes(data)
    with page.expect_response("**/classify"):
        drop_file(page, tmp_path / name)
    assert gateway.requests == [{"name": name, "bytes": data}]


# The line for curl


def test_curl_line_is_copied_and_sends_the_same_file_and_address(page, gateway, photo):
    drop_file(page, photo)
    line = f"curl -s {gateway.origin}/classify -F 'file=@blue jeans.png'"
    expect(page.locator("#curl")).to_have_text(line)
    # The clipboard's interface is missing where the page came over plain http from elsewhere.
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject() }")
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#copied")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == line

    for name in ("plain.png", """it's, a "nice"; pair\\of.png""", "$(id) `id`.png"):
        photo = photo.rename(photo.with_name(name))
        drop_file(page, photo)
        expect(page.locator("figcaption")).to_have_text(name)
        expect_answer(page)
        gateway.requests.clear()
        assert run_in_shell(curl_line(page), photo.parent) == ANSWER
        assert [sent["bytes"] for sent in gateway.requests] == [PICTURE]

    gateway.requests.clear()
    with page.expect_response("**/classify"):
        drop_text(page, f"""{gateway.origin}/photo.png?a=it's&b="$HOME"#é""")
    expect_answer(page)
    assert run_in_shell(curl_line(page), photo.parent) == ANSWER
    by_page, by_curl = gateway.requests
    assert by_curl == by_page


def run_in_shell(line: str, folder: Path) -> dict:
    if shutil.which("curl") is None:
        pytest.skip("no curl: the line was not run")
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, timeout=10)
    return json.loads(done.stdout)


# Failures, and answers that are not wanted any more


def test_detail_of_a_problem_is_shown(page, gateway, photo):
    detail = "This file is not a JPEG, PNG, WebP, GIF or BMP image. Choose another one."
    gateway.answer = problem(415, title="Not an image", detail=detail)
    drop_file(page, photo)
    expect(page.get_by_role("alert")).to_have_text(f"Not an image {detail}", use_inner_text=True)
    expect_answer(page, "")
    expect(page.locator(".bars li")).to_have_count(0)
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()


def test_passing_failures_can_be_tried_again(page, gateway, photo):
    gateway.answer = ("<h1>Bad Gateway</h1>", 502)
    drop_file(page, photo)
    expect_error(page, "answered with status 502 and did not say why")
    page.context.set_offline(True)
    page.get_by_role("button", name="Try again").click()
    expect_error(page, "The gateway cannot be reached")
    page.context.set_offline(False)
    gateway.answer = ANSWER
    page.get_by_role("button", name="Try again").click()
    expect_answer(page)
    expect(page.get_by_role("alert")).to_be_empty()
    assert gateway.requests[0] == gateway.requests[1]


def test_answer_that_makes_no_sense_is_an_error(page, gateway, photo):
    half = '{"predictions": [{"label": "hat"}]}'
    for answer in ("[1, 2]", "{}", '{"predictions": []}', half, "null", "<p>", ""):
        gateway.answer = answer
        with page.expect_response("**/classify"):
            drop_file(page, photo)
        expect_error(page, "The answer makes no sense")
        expect(page.locator("#waiting")).to_be_hidden()


def test_newer_photo_replaces_the_one_under_way(page, gateway, photo, tmp_path):
    gateway.answer = {"too late": 1}
    held = gateway.hold_next_answer()
    drop_file(page, photo)
    gateway.wait_for_request()
    expect_answer(page, "Looking…")
    expect(page.locator("#result")).to_have_attribute("aria-busy", "true")
    gateway.answer = ANSWER
    newer = photo.rename(tmp_path / "newer.png")
    with page.expect_event("requestfailed"):  # the older one is given up, not just ignored
        drop_file(page, newer)
    expect_answer(page)
    held.set()
    expect(page.locator("figcaption")).to_have_text("newer.png")
    expect(page.locator("#result")).not_to_have_attribute("aria-busy", "true")
    assert bars(page)[0][0] == "pants"


def test_waiting_can_be_cancelled(page, gateway, photo):
    held = gateway.hold_next_answer()
    drop_file(page, photo)
    gateway.wait_for_request()
    with page.expect_event("requestfailed"):
        page.get_by_role("button", name="Cancel").click()
    expect_answer(page, "Cancelled")
    expect(headline(page)).to_be_focused()
    expect(page.locator("#result")).to_be_hidden()
    held.set()
    drop_file(page, photo)
    expect_answer(page)


@pytest.mark.parametrize("answer", [ANSWER, ("", 502)], ids=["answer", "error"])
def test_keyboard_keeps_its_place_when_the_cancel_button_goes(page, gateway, photo, answer):
    gateway.answer = answer
    held = gateway.hold_next_answer()
    drop_file(page, photo)
    gateway.wait_for_request()
    page.get_by_role("button", name="Cancel").focus()
    held.set()
    expect(page.locator("#waiting")).to_be_hidden()
    expect(headline(page)).to_be_focused()


def test_second_click_sends_no_second_request(page, gateway):
    held = gateway.hold_next_answer()
    ask_by_address(page, f"{gateway.origin}/photo.png")
    gateway.wait_for_request()
    page.get_by_role("button", name="Ask").click(force=True)  # it counts as disabled meanwhile
    page.get_by_label("address of a photo").press("Enter")
    held.set()
    expect_answer(page)
    assert len(gateway.requests) == 1


# What is shown


def test_names_from_outside_stay_text(page, gateway, tmp_path, photo):
    evil = "<img src=x onerror=alert(1)>"
    gateway.model |= {"model_name": evil, "labels": [evil, "__proto__"]}
    gateway.answer = classification({evil: 3, "__proto__": 1})
    page.reload()
    drop_file(page, photo.rename(tmp_path / evil))
    expect_answer(page, f"This looks like: {evil} (88%)")
    assert [label for label, _ in bars(page)] == [evil, "__proto__"]
    expect(page.locator("figcaption")).to_have_text(evil)
    gateway.answer = problem(400, title=evil, detail=evil)
    drop_file(page, tmp_path / evil)
    expect_error(page, f"{evil} {evil}")
    assert page.locator("img:not(#photo img)").count() == 0


def test_probabilities_are_shown_as_they_are(page, gateway, photo):
    scores = {"cat": 0.4, "dog": 0.45, "eel": 0.15}
    gateway.model |= {"model_name": "pets", "scores": "probabilities", "labels": list(scores)}
    gateway.answer = classification(scores, logits=False)
    page.reload()
    drop_file(page, photo)
    expect_answer(page, "This looks like: dog (45%), perhaps cat (40%)")
    assert bars(page) == [("dog", "45.0%"), ("cat", "40.0%"), ("eel", "15.0%")]


def test_an_unsure_answer_is_said_to_be_a_guess(page, gateway, photo):
    gateway.answer = ANSWER | {"unsure": True}
    drop_file(page, photo)
    expect_answer(page, "Not sure: perhaps none of the labels. The best guess: pants (94%)")


def test_many_labels_show_the_ten_best_first(page, gateway, photo):
    labels = [f"label {i}" for i in range(1000)]
    gateway.model["labels"] = labels
    gateway.answer = classification({label: i / 100 for i, label in enumerate(labels)})
    page.reload()
    drop_file(page, photo)
    assert [label for label, _ in bars(page)] == labels[:-11:-1]
    page.get_by_text("990 more").click()
    expect(page.locator("#others li")).to_have_count(990)


def test_phone_shows_the_answer_without_sideways_scrolling(browser, gateway, photo):
    window = {"width": 360, "height": 740}
    phone = {"viewport": window, "is_mobile": True, "has_touch": True, "reduced_motion": "reduce"}
    with opened(browser, gateway, **phone) as page:
        drop_file(page, photo)
        assert bars(page)[0][0] == "pants"
        expect(page.locator("#best li").nth(5)).to_be_in_viewport()

        gateway.answer = classification({"a" * 60: 12, **LOGITS})
        drop_file(page, photo.rename(photo.with_name(f"{'n' * 200}.png")))
        expect(page.locator("#json")).to_contain_text("aaa")
        page.locator("#raw summary").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= window["width"]

        gateway.answer = problem(400, detail="d" * 300)
        drop_text(page, f"{gateway.origin}/{'u' * 400}")
        expect_error(page, "ddd")
        assert page.evaluate("document.documentElement.scrollWidth") <= window["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_accessible(browser, gateway, photo, scheme):
    def check(page: Page) -> None:
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()

    with opened(browser, gateway, color_scheme=scheme, reduced_motion="reduce") as page:
        check(page)
        drop_file(page, photo)
        expect_answer(page)
        page.locator("#raw summary").click()
        check(page)
        gateway.answer = problem(502, title="No model", detail="Try again")
        drop_file(page, photo)
        expect_error(page, "No model")
        check(page)


def test_page_says_what_to_do_without_javascript(browser, gateway):
    with opened(browser, gateway, java_script_enabled=False) as page:
        expect(page.locator("#ask")).to_be_hidden()
        expect(page.locator("noscript p")).to_be_visible()
        assert "needs JavaScript" in page.locator("noscript p").text_content()
        lines = page.locator("noscript code").text_content()
        assert f"curl -s {gateway.origin}/predict -F 'file=@photo.jpg'" in lines
