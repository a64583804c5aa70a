"""The dashboard in a real browser: what a reader sees, and where pixels travel."""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

import pytest

from dashboards.answers import Source
from dashboards.launch import command

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_S = 60


@pytest.fixture
def chromium():
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium must be installed for continuous integration")
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def address(run_folder, log_path):
    """A served dashboard, with the hardened options of the launcher."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = Path(__file__).with_name("fixture_app.py")
    words = command(Source(run_folder, str(log_path)), port, app=app)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/_stcore/health", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.communicate(timeout=20)


def _wait_for(url, server):
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except (URLError, OSError):
            if server.poll() is not None:
                break
            time.sleep(0.2)
        else:
            return
    pytest.fail("the dashboard did not start")


@pytest.fixture
def page(chromium):
    """A page that notes its requests and errors."""
    page = chromium.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(1000 * WAIT_S)
    page.requested, page.problems = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("websocket", lambda socket: page.requested.append(socket.url))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on(
        "console",
        lambda message: page.problems.append(message.text) if message.type == "error" else None,
    )
    return page


def picture(page):
    """The pixels of the visible canvas, as text."""
    return page.locator("canvas").first.evaluate("canvas => canvas.toDataURL()")


def assert_private(page):
    """Nothing left this machine, no pixel came by the shared media address, nothing failed."""
    urls = [urlsplit(url) for url in page.requested if not url.startswith(("data:", "blob:"))]
    assert {url.hostname for url in urls} == {"127.0.0.1"}
    assert not [url.path for url in urls if url.path.startswith("/media/")]
    assert page.problems == []


def test_a_reader_picks_a_case_and_changes_the_window(page, address):
    page.goto(address)
    page.get_by_text("Record 4: nodule").wait_for()
    page.get_by_text("is not in the run's cohort").wait_for()

    page.get_by_role("combobox").click()
    page.get_by_role("option", name="No. 3").click()
    page.get_by_text("Record 3: nodule").wait_for()
    page.get_by_text("Total = logit of nodule").wait_for()
    assert page.get_by_text("+3.500").count() >= 1
    page.get_by_text("all 5 records are what was written").wait_for()

    from playwright.sync_api import expect

    canvas = page.locator("canvas").first
    root = page.locator(".root[data-width]").first
    root.wait_for()
    assert root.get_attribute("data-width") == "1.0000"
    before = picture(page)
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 260, steps=5)
    page.mouse.up()
    # 100 pixels to the left take 100/400 of the width; 40 up add 40/400 to the level.
    expect(root).to_have_attribute("data-width", "0.7500")
    expect(root).to_have_attribute("data-level", "0.6000")
    assert picture(page) != before

    page.keyboard.press("i")
    page.keyboard.press("2")
    page.locator(".card .sum", has_text="similarity 4.000").wait_for()
    page.locator("select").first.select_option("gradCam")
    expect(root).to_have_attribute("data-map", "gradCam")
    canvas.focus()
    page.keyboard.press("0")
    expect(root).to_have_attribute("data-width", "1.0000")

    assert_private(page)


def test_the_gallery_shows_every_prototype_without_the_media_address(page, address):
    page.goto(address)
    page.get_by_role("link", name="Model").click()
    page.get_by_text("Model of run run").wait_for()
    page.locator(".gallery .card").first.wait_for()
    # Class 0, "normal", has the prototypes 1, 3 and 5.
    assert page.locator(".gallery .card").count() == 3
    assert page.locator(".gallery img").count() == 6
    assert_private(page)
