"""The gateway's page in a real browser, before a gateway that gives prepared answers."""

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from math import exp
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from flask import Flask, jsonify, render_template, request
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect
from werkzeug.serving import make_server

from tests.browser import drop_file, drop_text, launch

GATEWAY = Path(__file__).parents[2] / "gateway"
LOGITS = {
    "dress": -1.87,
    "hat": -4.76,
    "longsleeve": -2.32,
    "outwear": -1.06,
    "pants": 9.9,
    "shirt": -2.81,
    "shoes": -3.66,
    "shorts": 7.2,
    "skirt": -2.6,
    "t-shirt": -4.84,
}
MAX_BYTES = 100_000  # of this fake gateway, so that files over the limit need not be large


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
        "model": {"name": "starter", "version": 7},
        "seconds": {"decode": 0.004, "model": 1.2},
    }


ANSWER = classification(LOGITS)
TOP_ANSWER = "This looks like: pants (94%)"
PHONE = {
    "viewport": {"width": 360, "height": 740},
    "is_mobile": True,
    "has_touch": True,
    "reduced_motion": "reduce",
}


@dataclass
class FakeGateway:
    """Serves the page, and answers /classify with what `answer` returns."""

    origin: str = ""
    model: dict = field(default_factory=dict)
    answer: Callable = lambda: jsonify(ANSWER)
    requests: list[dict] = field(default_factory=list)

    def reset(self) -> None:
        self.model = {"model_name": "starter", "scores": "logits", "labels": list(LOGITS)}
        self.model["max_bytes"] = MAX_BYTES
        self.answer = lambda: jsonify(ANSWER)
        self.requests = []

    def hold(self, answer: dict) -> tuple[threading.Event, threading.Event]:
        """Give this answer only when released; returns the events "asked" and "release"."""
        asked, release = threading.Event(), threading.Event()

        def slow():
            asked.set()
            release.wait(10)
            return jsonify(answer)

        self.answer = slow
        return asked, release


@pytest.fixture(scope="module")
def served() -> Iterator[FakeGateway]:
    fake = FakeGateway()
    app = Flask("fake", template_folder=GATEWAY / "templates", static_folder=GATEWAY / "static")
    app.json.sort_keys = False

    @app.get("/")
    def index():
        return render_template("index.html", **fake.model)

    @app.post("/classify")
    def classify():
        upload = request.files.get("file")
        fake.requests.append(
            {"name": upload.filename, "bytes": upload.read()} if upload else request.get_json()
        )
        return fake.answer()

    @app.get("/photo.png")
    def photo():
        return app.response_class(picture_bytes(), mimetype="image/png")

    @app.after_request
    def strict(response):
        policy = "default-src 'self'; img-src 'self' blob: data: https: http:"
        response.headers["Content-Security-Policy"] = policy
        return response

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    fake.origin = f"http://127.0.0.1:{server.port}"
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


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
    # Playwright catches file choosers while somebody listens; a key can be faster than its start.
    tab.on("filechooser", lambda chooser: None)
    return tab


@pytest.fixture
def page(tab: Page, gateway: FakeGateway) -> Iterator[Page]:
    """The page, freshly loaded, in a window that may use the clipboard."""
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    with watched(tab, gateway):
        tab.goto(gateway.origin)
        yield tab


@contextmanager
def watched(page: Page, gateway: FakeGateway) -> Iterator[None]:
    """Fails if the page logs an error of its own, or sends a request to anywhere else."""
    problems: list[str] = []

    def on_request(sent):
        if not sent.url.startswith((f"{gateway.origin}/", f"blob:{gateway.origin}/")):
            problems.append(f"request to {sent.url}")

    def on_console(message):
        # The browser itself notes every 4xx, 5xx and failed request; those the tests make.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            problems.append(message.text)

    def on_error(error):
        problems.append(str(error))

    listeners = {"request": on_request, "console": on_console, "pageerror": on_error}
    page.set_default_timeout(5000)
    for event, listener in listeners.items():
        page.on(event, listener)
    yield
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    assert problems == []


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "blue jeans.png"
    path.write_bytes(picture_bytes())
    return path


def picture_bytes() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (30, 40), "navy").save(buffer, "PNG")
    return buffer.getvalue()


def problem(status: int, **members):
    response = jsonify({"type": "about:blank", "status": status, **members})
    response.content_type = "application/problem+json"
    return response, status


def headline(page: Page) -> Locator:
    return page.get_by_role("status").first


def bars(page: Page) -> list[tuple[str, str]]:
    """(label, percentage) of the bars, from the top, once there are any."""
    expect(page.locator("#best li").first).to_be_visible()
    rows = page.locator("#best li").all()
    return [(r.locator(".label").inner_text(), r.locator(".percent").inner_text()) for r in rows]


def curl_line(page: Page) -> str:
    return page.locator("#curl").text_content()


def shown_width(page: Page, selector: str) -> int:
    return page.locator(selector).evaluate("image => image.decode().then(() => image.naturalWidth)")


def test_drop_shows_photo_bars_top_answer_and_time(page, gateway, photo):
    drop_file(page, photo)

    expect(headline(page)).to_have_text(TOP_ANSWER)
    sum_of_powers = sum(map(exp, LOGITS.values()))
    best_first = sorted(LOGITS.items(), key=lambda item: -item[1])
    percentages = [100 * exp(logit) / sum_of_powers for _, logit in best_first]
    assert bars(page) == [
        (label, f"{percentage:.1f}%" if percentage >= 0.05 else "<0.1%")
        for (label, _), percentage in zip(best_first, percentages, strict=True)
    ]
    widths = page.locator("#best .fill").evaluate_all("fills => fills.map(f => f.style.width)")
    assert [float(w.rstrip("%")) for w in widths] == pytest.approx(percentages, abs=1e-3)
    assert shown_width(page, "#photo img") == 30
    took = page.locator("#took").inner_text()
    assert took.startswith("Answered in ")
    assert took.endswith(": 4 ms to decode it, 1.2 s for the model (version 7)")
    assert json.loads(page.locator("#json").text_content()) == ANSWER
    assert gateway.requests == [{"name": photo.name, "bytes": photo.read_bytes()}]


def test_file_chooser(page, gateway, photo):
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Choose a photo").click()
    chooser.value.set_files(photo)
    expect(headline(page)).to_have_text(TOP_ANSWER)
    with page.expect_response("**/classify"):  # the same file once more is a new question
        page.get_by_label("Choose a photo").set_input_files(photo)
    assert gateway.requests[0] == {"name": photo.name, "bytes": photo.read_bytes()}


def test_url(page, gateway):
    address = f"{gateway.origin}/photo.png"
    page.get_by_label("address of a photo").fill(f"  {address} ")
    page.get_by_role("button", name="Ask").click()
    expect(headline(page)).to_have_text(TOP_ANSWER)
    assert gateway.requests == [{"url": address}]
    assert shown_width(page, "#photo img") == 30


def test_only_web_addresses_are_asked_about(page, gateway):
    page.get_by_label("address of a photo").fill("file:///etc/passwd")
    page.get_by_role("button", name="Ask").click()
    assert page.locator("#url:invalid").count() == 1
    drop_text(page, "javascript:alert(1)")
    expect(page.get_by_role("alert")).to_contain_text("neither a picture nor an address")
    assert gateway.requests == []


def test_photo_that_the_browser_cannot_get_falls_away(page, gateway):
    drop_text(page, f"{gateway.origin}/missing.png", mime_type="text/uri-list")
    expect(headline(page)).to_have_text(TOP_ANSWER)
    expect(page.locator("#photo img")).to_have_count(0)
    expect(page.locator("#photo")).to_have_text(f"{gateway.origin}/missing.png")


def test_paste_url_anywhere(page, gateway):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    address = f"{gateway.origin}/photo.png"
    page.evaluate("text => navigator.clipboard.writeText(text)", address)
    page.keyboard.press("ControlOrMeta+V")
    expect(headline(page)).to_have_text(TOP_ANSWER)
    assert gateway.requests == [{"url": address}]


def test_paste_url_into_its_field_waits_for_enter(page, gateway):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    address = f"{gateway.origin}/photo.png"
    page.evaluate("text => navigator.clipboard.writeText(text)", address)
    page.get_by_label("address of a photo").focus()
    page.keyboard.press("ControlOrMeta+V")
    expect(page.get_by_label("address of a photo")).to_have_value(address)
    assert gateway.requests == []
    page.keyboard.press("Enter")
    expect(headline(page)).to_have_text(TOP_ANSWER)


def test_paste_picture(page, gateway):
    page.evaluate(
        """async () => {
            const photo = await (await fetch("/photo.png")).blob();
            await navigator.clipboard.write([new ClipboardItem({"image/png": photo})]);
        }"""
    )
    page.keyboard.press("ControlOrMeta+V")
    expect(headline(page)).to_have_text(TOP_ANSWER)
    assert gateway.requests[0]["bytes"].startswith(b"\x89PNG")


def test_keyboard_only(page, gateway, photo):
    page.keyboard.press("Tab")
    ring = page.locator(".drop").evaluate("drop => getComputedStyle(drop).outlineStyle")
    assert ring == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(photo)
    expect(headline(page)).to_have_text(TOP_ANSWER)

    for _ in ("the camera", "the address"):
        page.keyboard.press("Tab")
    page.keyboard.type(f"{gateway.origin}/photo.png")
    page.keyboard.press("Enter")
    expect(page.locator("#curl")).to_contain_text("photo.png")
    expect(headline(page)).to_have_text(TOP_ANSWER)

    copy = page.get_by_role("button", name="Copy")
    for _ in range(6):
        page.keyboard.press("Tab")
        if copy.evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Space")
    expect(page.locator("#copied")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == curl_line(page)


def test_copy_without_the_clipboard_interface(page, photo):
    """navigator.clipboard is missing where the page came over plain http from another machine."""
    drop_file(page, photo)
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject() }")
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#copied")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == curl_line(page)


def test_curl_line_sends_the_same_file(page, gateway, photo):
    drop_file(page, photo)
    expect(page.locator("#curl")).to_have_text(
        f"curl -s {gateway.origin}/classify -F 'file=@blue jeans.png'"
    )
    for name in ("plain.png", """it's, a "nice"; pair\\of.png""", "$(id) `id`.png"):
        photo = photo.rename(photo.with_name(name))
        drop_file(page, photo)
        expect(headline(page)).to_have_text(TOP_ANSWER)
        gateway.requests.clear()
        assert run_in_shell(curl_line(page), photo.parent) == ANSWER
        assert [sent["bytes"] for sent in gateway.requests] == [photo.read_bytes()]


def test_curl_line_sends_the_same_url(page, gateway, tmp_path):
    address = f"""{gateway.origin}/photo.png?a=it's&b="$HOME"#é"""
    drop_text(page, address)
    expect(headline(page)).to_have_text(TOP_ANSWER)
    assert run_in_shell(curl_line(page), tmp_path) == ANSWER
    by_page, by_curl = gateway.requests
    assert by_curl == by_page


def run_in_shell(line: str, folder: Path) -> dict:
    if shutil.which("curl") is None:
        pytest.skip("no curl: the line was not run")
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, timeout=10)
    return json.loads(done.stdout)


def test_problem_detail_is_shown(page, gateway, photo):
    detail = "This file is not a JPEG, PNG, WebP, GIF or BMP image. Choose another one."
    gateway.answer = lambda: problem(415, title="Not an image", detail=detail)
    drop_file(page, photo)
    expect(page.get_by_role("alert")).to_have_text(f"Not an image {detail}", use_inner_text=True)
    expect(headline(page)).to_have_text("")
    expect(page.locator(".bars li")).to_have_count(0)
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()


def test_passing_failure_can_be_tried_again(page, gateway, photo):
    gateway.answer = lambda: ("<h1>Bad Gateway</h1>", 502)
    drop_file(page, photo)
    expect(page.get_by_role("alert")).to_contain_text(
        "answered with status 502 and did not say why"
    )
    gateway.answer = lambda: jsonify(ANSWER)
    page.get_by_role("button", name="Try again").click()
    expect(headline(page)).to_have_text(TOP_ANSWER)
    expect(page.get_by_role("alert")).to_be_empty()
    assert gateway.requests[0] == gateway.requests[1]


def test_network_failure(page, photo):
    page.context.set_offline(True)
    drop_file(page, photo)
    expect(page.get_by_role("alert")).to_contain_text("The gateway cannot be reached")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(headline(page)).to_have_text(TOP_ANSWER)


def test_answer_that_makes_no_sense(page, gateway, photo):
    half = '{"predictions": [{"label": "hat"}]}'
    for answer in ("[1, 2]", "{}", '{"predictions": []}', half, "null", "<p>", ""):
        gateway.answer = lambda answer=answer: (answer, 200)
        with page.expect_response("**/classify"):
            drop_file(page, photo)
        expect(page.get_by_role("alert")).to_contain_text("The answer makes no sense")
        expect(page.locator("#waiting")).to_be_hidden()


def test_files_that_are_no_photos_are_not_sent(page, gateway, tmp_path):
    (notes := tmp_path / "notes.txt").write_text("no photo")
    drop_file(page, notes)
    expect(page.get_by_role("alert")).to_contain_text("notes.txt is not a picture (text/plain)")
    (folder := tmp_path / "folder").mkdir()
    drop_file(page, folder)
    expect(page.get_by_role("alert")).to_contain_text("folder is a folder")
    assert gateway.requests == []


def test_newer_photo_replaces_the_one_under_way(page, gateway, photo, tmp_path):
    asked, release = gateway.hold({"too late": 1})
    drop_file(page, photo)
    assert asked.wait(5)
    expect(headline(page)).to_have_text("Looking…")
    expect(page.locator("#result")).to_have_attribute("aria-busy", "true")
    gateway.answer = lambda: jsonify(ANSWER)
    newer = photo.rename(tmp_path / "newer.png")
    with page.expect_event("requestfailed"):  # the older one is given up, not just ignored
        drop_file(page, newer)
    expect(headline(page)).to_have_text(TOP_ANSWER)
    release.set()
    expect(page.locator("figcaption")).to_have_text("newer.png")
    expect(page.locator("#result")).not_to_have_attribute("aria-busy", "true")
    assert bars(page)[0][0] == "pants"


def test_waiting_can_be_cancelled(page, gateway, photo):
    asked, release = gateway.hold(ANSWER)
    drop_file(page, photo)
    assert asked.wait(5)
    with page.expect_event("requestfailed"):
        page.get_by_role("button", name="Cancel").click()
    expect(headline(page)).to_have_text("Cancelled")
    expect(headline(page)).to_be_focused()
    expect(page.locator("#result")).to_be_hidden()
    release.set()
    gateway.answer = lambda: jsonify(ANSWER)
    drop_file(page, photo)
    expect(headline(page)).to_have_text(TOP_ANSWER)


def test_a_file_over_the_limit_is_made_smaller(page, gateway, tmp_path):
    noise = Image.effect_noise((2500, 1000), 90)
    noise.save(large := tmp_path / "large.png")
    assert large.stat().st_size > 10 * MAX_BYTES
    drop_file(page, large)
    expect(page.locator("#took")).to_contain_text("made smaller here: the file has")
    [sent] = gateway.requests
    assert sent["name"] == "large.png"
    with Image.open(BytesIO(sent["bytes"])) as image:
        assert (image.format, image.size) == ("JPEG", (2000, 800))


def test_a_large_file_that_is_no_picture_is_the_gateways_to_judge(page, gateway, tmp_path):
    (large := tmp_path / "large.png").write_bytes(bytes(2 * MAX_BYTES))
    drop_file(page, large)
    expect(headline(page)).to_have_text(TOP_ANSWER)
    assert gateway.requests[0]["bytes"] == large.read_bytes()


def test_camera(browser, gateway):
    with browser.new_context(permissions=["camera"]) as context:
        page = context.new_page()
        with watched(page, gateway):
            page.goto(gateway.origin)
            page.get_by_role("button", name="Use the camera").click()
            page.get_by_role("button", name="Take the photo").click()
            expect(headline(page)).to_have_text(TOP_ANSWER)
            [sent] = gateway.requests
            with Image.open(BytesIO(sent["bytes"])) as image:
                assert image.format == "JPEG"
                assert image.getcolors(3) is None  # not a black frame: something was seen
            assert shown_width(page, "#photo img") == image.width

            page.get_by_role("button", name="Use the camera").click()
            expect(page.locator("#viewfinder")).to_be_visible()
            page.keyboard.press("Escape")
            expect(page.locator("#viewfinder")).to_be_hidden()
            page.wait_for_function("!document.querySelector('video').srcObject")  # off again
            assert len(gateway.requests) == 1


def test_no_camera_is_explained(page, gateway):
    for error, words in (
        ("new DOMException('', 'NotFoundError')", "No camera was found"),
        ("new DOMException('', 'NotAllowedError')", "was not allowed"),
        ("new DOMException('', 'NotReadableError')", "another program"),
    ):
        page.evaluate(
            f"() => {{ navigator.mediaDevices.getUserMedia = () => Promise.reject({error}) }}"
        )
        page.get_by_role("button", name="Use the camera").click()
        expect(page.get_by_role("alert")).to_contain_text(words)
    page.evaluate("() => { Object.defineProperty(navigator, 'mediaDevices', {value: null}) }")
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("alert")).to_contain_text("https://")
    assert gateway.requests == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_a_screen_reader_or_weak_eyes(browser, gateway, photo, scheme):
    with browser.new_context(color_scheme=scheme, reduced_motion="reduce") as context:
        page = context.new_page()
        page.goto(gateway.origin)
        assert_accessible(page)
        drop_file(page, photo)
        expect(headline(page)).to_have_text(TOP_ANSWER)
        page.locator("#raw summary").click()
        assert_accessible(page)
        gateway.answer = lambda: problem(502, title="No model", detail="Try again")
        drop_file(page, photo)
        expect(page.get_by_role("alert")).to_contain_text("No model")
        assert_accessible(page)


def assert_accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_second_click_asks_only_once(page, gateway):
    asked, release = gateway.hold(ANSWER)
    page.get_by_label("address of a photo").fill(f"{gateway.origin}/photo.png")
    page.get_by_role("button", name="Ask").click()
    assert asked.wait(5)
    page.get_by_role("button", name="Ask").click(force=True)  # it counts as disabled meanwhile
    page.get_by_label("address of a photo").press("Enter")
    release.set()
    expect(headline(page)).to_have_text(TOP_ANSWER)
    assert len(gateway.requests) == 1


def test_names_from_outside_stay_text(page, gateway, tmp_path, photo):
    evil = "<img src=x onerror=alert(1)>"
    gateway.model |= {"model_name": evil, "labels": [evil, "__proto__"]}
    gateway.answer = lambda: app_json(classification({evil: 3, "__proto__": 1}))
    page.reload()
    drop_file(page, photo.rename(tmp_path / evil))
    expect(headline(page)).to_have_text(f"This looks like: {evil} (88%)")
    assert [label for label, _ in bars(page)] == [evil, "__proto__"]
    expect(page.locator("figcaption")).to_have_text(evil)
    gateway.answer = lambda: problem(400, title=evil, detail=evil)
    drop_file(page, tmp_path / evil)
    expect(page.get_by_role("alert")).to_contain_text(f"{evil} {evil}", use_inner_text=True)
    assert page.locator("img:not(#photo img)").count() == 0


def app_json(scores: dict):
    return json.dumps(scores), {"Content-Type": "application/json"}


def test_probabilities_are_shown_as_they_are(page, gateway, photo):
    gateway.model |= {
        "model_name": "pets",
        "scores": "probabilities",
        "labels": ["cat", "dog", "eel"],
    }
    gateway.answer = lambda: app_json(
        classification({"cat": 0.4, "dog": 0.45, "eel": 0.15}, logits=False)
    )
    page.reload()
    drop_file(page, photo)
    expected = "This looks like: dog (45%), perhaps cat (40%)"
    expect(headline(page)).to_have_text(expected)
    assert bars(page) == [("dog", "45.0%"), ("cat", "40.0%"), ("eel", "15.0%")]


def test_many_labels_show_the_ten_best_first(page, gateway, photo):
    labels = [f"label {i}" for i in range(1000)]
    gateway.model["labels"] = labels
    gateway.answer = lambda: app_json(
        classification({label: i / 100 for i, label in enumerate(labels)})
    )
    page.reload()
    drop_file(page, photo)
    assert [label for label, _ in bars(page)] == labels[:-11:-1]
    page.get_by_text("990 more").click()
    expect(page.locator("#others li")).to_have_count(990)


def test_phone_shows_the_answer_without_sideways_scrolling(browser, gateway, photo):
    with browser.new_context(**PHONE) as context:
        page = context.new_page()
        with watched(page, gateway):
            page.goto(gateway.origin)
            drop_file(page, photo)
            assert bars(page)[0][0] == "pants"
            expect(page.locator("#best li").nth(5)).to_be_in_viewport()

            gateway.answer = lambda: app_json(classification({"a" * 60: 12, **LOGITS}))
            drop_file(page, photo.rename(photo.with_name(f"{'n' * 200}.png")))
            expect(page.locator("#json")).to_contain_text("aaa")
            page.locator("#raw summary").click()
            assert page_width(page) <= PHONE["viewport"]["width"]

            gateway.answer = lambda: problem(400, detail="d" * 300)
            drop_text(page, f"{gateway.origin}/{'u' * 400}")
            expect(page.get_by_role("alert")).to_contain_text("ddd")
            assert page_width(page) <= PHONE["viewport"]["width"]


def page_width(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth")


def test_without_javascript_the_page_says_what_to_do(browser, gateway):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(gateway.origin)
        expect(page.locator("#ask")).to_be_hidden()
        expect(page.locator("noscript p")).to_be_visible()
        assert "needs JavaScript" in page.locator("noscript p").text_content()
        lines = page.locator("noscript code").text_content()
        assert f"curl -s {gateway.origin}/predict -F 'file=@photo.jpg'" in lines
