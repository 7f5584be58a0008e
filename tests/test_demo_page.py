"""The demo's page in headless Chromium: drag, draw, move, clear, open files."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from air.prediction import views_of
from experiments.browser import Browser, BrowserError, find_chromium
from experiments.demo.screenshot import STILL, served
from experiments.demo.server import DemoApp
from tests.small import small_model
from tests.test_demo import make_digits

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium on this machine: apt-get install chromium"
)

SIDE = 50


@pytest.fixture(scope="module")
def model():
    model = small_model(inference="paper", canvas_size=(SIDE, SIDE), glimpse_size=(12, 12))
    with torch.no_grad():
        model.inference.predictor.mlp[-1].bias[0] = 1.0  # sees something
    return model.eval()


@pytest.fixture(scope="module")
def address(model):
    with served(DemoApp(model, "small", make_digits())) as address:
        yield address


@pytest.fixture(scope="module")
def browser(address):
    with Browser(width=1000, height=1000) as browser:
        browser.open(f"{address}?seed=1")
        browser.wait_for(STILL)
        yield browser


@pytest.fixture
def page(browser, address):
    """The page with an empty picture; afterwards all must be in order."""
    if not browser.evaluate("location.href").startswith(address):
        browser.open(f"{address}?seed=1")
        wait(browser)
    if browser.evaluate("document.querySelector('#views').checked"):
        browser.click("#views")  # left so by a test that failed
    browser.errors.clear()
    browser.requests.clear()
    browser.click("#clear")
    wait(browser)
    assert not picture(browser).any()
    yield browser
    wait(browser)
    assert browser.errors == []
    assert not foreign(browser, address)


def wait(browser):
    browser.wait_for(STILL)


def foreign(browser, address):
    """What was asked of others than the server."""
    return [request for request in browser.requests if not request.startswith(address)]


RED = """((canvas) => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  return [...data].filter((_, i) => i % 4 === 0);
})"""
"""Of a canvas; through a copy, since Chromium warns of a canvas that is read more than once."""


def picture(browser):
    """What the canvas on the page shows: uint8 ``(50, 50)``."""
    values = browser.evaluate(f"{RED}(document.querySelector('#scene'))")
    return np.array(values, np.uint8).reshape(SIDE, SIDE)


def text(browser, selector):
    return browser.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")


def at(browser, x, y):
    """A point of the picture, in its own pixels, in the window."""
    return browser.middle_of("#scene", (x / SIDE, y / SIDE))


def tray(browser, number=0):
    return browser.middle_of(f"#tray button:nth-child({number + 1})")


def middle(pixels):
    """Where the light is: ``(x, y)``."""
    rows, columns = np.nonzero(pixels)
    return (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2


def check_reading(browser, model, shifts=None):
    """What the page says is what the model reads of what the page shows."""
    reading = model.infer(torch.from_numpy(picture(browser))[None, None], shifts=shifts)
    count = int(reading.counts)
    assert text(browser, "#count") == str(count)
    bars = browser.evaluate(
        "[...document.querySelectorAll('#probs .fill')].map((bar) => parseFloat(bar.style.width))"
    )
    np.testing.assert_allclose(bars, 100 * reading.count_probs[0], atol=0.1)
    boxes = browser.evaluate(
        "[...document.querySelectorAll('.found')].map((box) => "
        "['x', 'y', 'width', 'height'].map((name) => Number(box.getAttribute(name))))"
    )
    assert len(boxes) == count
    for (x, y, width, height), box in zip(boxes, reading.boxes[0, :count], strict=True):
        np.testing.assert_allclose([x, y, x + width, y + height], box, atol=0.01)
    return count


def test_it_opens_with_digits_and_a_reading(browser, model, address):
    browser.open(f"{address}?seed=1")
    wait(browser)
    assert browser.evaluate("document.querySelectorAll('#tray button').length") == 10
    assert picture(browser).any()
    check_reading(browser, model)
    steps = browser.evaluate("document.querySelectorAll('.step').length")
    assert steps == 3
    pictures = browser.evaluate(f"[...document.querySelectorAll('.step canvas')].map({RED})")
    assert len(pictures) == 9  # glimpse, decoded glimpse and canvas
    assert all(any(pixels) for pixels in pictures)
    assert re.fullmatch(r"−?\d+\.\d", text(browser, "#elbo"))
    assert "ms to look" in text(browser, "#times")
    assert browser.errors == []
    assert {request.removeprefix(address) for request in browser.requests} >= {
        "demo.js",
        "digits?seed=1",
    }
    assert not foreign(browser, address)


def test_digits_are_dragged_in_about_and_out(page, model):
    page.drag(tray(page, 3), at(page, 15, 20))
    wait(page)
    before = picture(page)
    assert middle(before) == pytest.approx((15, 20), abs=1)
    check_reading(page, model)

    page.drag(at(page, 15, 20), at(page, 30, 26))
    wait(page)
    after = picture(page)
    np.testing.assert_array_equal(np.roll(before, (6, 15), axis=(0, 1)), after)
    check_reading(page, model)

    page.drag(tray(page, 4), at(page, 12, 38))  # another one, which stays where it is
    page.drag(at(page, 30, 26), (at(page, 30, 26)[0] + 600, 500))
    wait(page)
    assert middle(picture(page)) == pytest.approx((12, 38), abs=1)


def test_what_is_dragged_past_the_edge_stays_whole(page):
    page.drag(tray(page), at(page, 25, 25), at(page, 1, 1))
    wait(page)
    assert picture(page).sum() > 0
    total = picture(page).sum()
    page.drag(at(page, *middle(picture(page))), at(page, 25, 25))
    wait(page)
    assert picture(page).sum() == total


def test_a_click_adds_a_digit_and_remove_takes_it_away(page, model):
    page.drag(tray(page, 5))
    wait(page)
    assert picture(page).any()
    check_reading(page, model)
    page.click("#remove")
    wait(page)
    assert not picture(page).any()
    assert page.evaluate("document.querySelector('#remove').disabled")


def test_a_digit_is_moved_by_keys(page):
    page.drag(tray(page, 2), at(page, 25, 25))
    page.drag(at(page, 25, 25))
    wait(page)
    before = picture(page)
    page.press("ArrowRight", 39)
    page.press("ArrowDown", 40)
    page.press("ArrowDown", 40)
    wait(page)
    np.testing.assert_array_equal(np.roll(before, (2, 1), axis=(0, 1)), picture(page))
    page.press("Delete", 46)
    wait(page)
    assert not picture(page).any()


def test_strokes_are_drawn_and_joined_where_they_touch(page, model):
    page.drag(at(page, 10, 10), at(page, 30, 10))
    page.drag(at(page, 20, 5), at(page, 20, 30), steps=20)
    wait(page)
    drawn = picture(page)
    assert drawn[9:11, 12:28].min() == 255
    assert drawn[12:28, 19:21].min() == 255
    assert not drawn[20:, :15].any()
    check_reading(page, model)
    page.drag(at(page, 12, 10), at(page, 17, 14))  # all of it is one thing
    wait(page)
    np.testing.assert_array_equal(np.roll(drawn, (4, 5), axis=(0, 1)), picture(page))


def test_clear_leaves_black_and_the_hint(page, model):
    page.drag(tray(page), at(page, 25, 25))
    wait(page)
    assert not page.evaluate("document.querySelector('#hint').offsetParent")
    page.click("#clear")
    wait(page)
    assert not picture(page).any()
    assert page.evaluate("Boolean(document.querySelector('#hint').offsetParent)")
    check_reading(page, model)


def test_the_view_of_the_highest_elbo_is_a_switch(page, model):
    page.drag(tray(page, 1), at(page, 22, 27))
    page.click("#views")
    wait(page)
    shifts = views_of(model.config)
    check_reading(page, model, shifts)
    down, right = (
        model.infer(torch.from_numpy(picture(page))[None, None], shifts=shifts).shifts[0].tolist()
    )
    shown = text(page, "#times").replace("−", "-")
    assert f"View kept: {down} down, {right} right" in shown
    page.click("#views")
    wait(page)
    check_reading(page, model)


def test_new_digits_and_random_scenes(page):
    first = page.evaluate("document.querySelector('#tray canvas').width")
    page.click("#shuffle")
    for _ in range(6):  # a scene may be empty
        page.click("#random")
        wait(page)
        if picture(page).any():
            break
    assert picture(page).any()
    assert first > 0


def test_a_broken_file_gets_a_message_and_harms_nothing(page, model, tmp_path):
    page.drag(tray(page), at(page, 25, 25))
    wait(page)
    before = picture(page)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    page.choose_file("#file", broken)
    page.wait_for("!document.querySelector('#error').hidden")
    assert text(page, "#error").startswith("broken.png: This is no image")
    np.testing.assert_array_equal(picture(page), before)
    # The console tells of the status that the server answered with, and of nothing else.
    (line,) = page.errors
    assert "400" in line
    assert line.endswith("/image")
    page.errors.clear()

    good = tmp_path / "page.png"
    paper = np.full((100, 100), 240, np.uint8)
    paper[20:60, 40:50] = 0
    Image.fromarray(paper).save(good)
    page.choose_file("#file", good)
    page.wait_for("!document.querySelector('#notice').hidden")
    wait(page)
    assert page.evaluate("document.querySelector('#error').hidden")
    assert "page.png is open." in text(page, "#notice")
    opened = picture(page)
    assert opened[11:29, 21:24].min() > 200
    assert not opened[35:].any()
    check_reading(page, model)
    page.drag(tray(page), at(page, 12, 40))  # digits go on top of it
    wait(page)
    assert picture(page)[32:48, 5:20].any()
    check_reading(page, model)


def test_it_is_dark_where_dark_is_preferred_and_narrow_where_there_is_no_room(page):
    color = "getComputedStyle(document.body).backgroundColor"
    page.use_dark(False)
    light = page.evaluate(color)
    page.use_dark(True)
    dark = page.evaluate(color)
    page.use_dark(False)
    assert sum(map(int, re.findall(r"\d+", dark))) < sum(map(int, re.findall(r"\d+", light)))
    page.resize(360, 800)
    inside = page.evaluate("document.documentElement.scrollWidth <= 360")
    page.resize(1000, 1000)
    assert inside


def test_the_page_says_so_when_the_server_has_ended(browser, model):
    with served(DemoApp(model, "small", make_digits())) as address:
        browser.open(address)
        wait(browser)
    browser.click("#clear")
    wait(browser)
    assert "air demo" in text(browser, "#error")


def test_the_browser_reports_what_goes_wrong_in_a_page(browser, address, monkeypatch):
    browser.open(f"{address}nowhere")
    browser.errors.clear()
    browser.evaluate(
        "console.error('spilt'); fetch('/none'); setTimeout(() => { throw new Error('thrown') })"
    )
    browser.wait_for("new Promise((done) => setTimeout(() => done(true), 100))")
    for part in ("spilt", "404", "thrown"):
        assert any(part in error for error in browser.errors), browser.errors
    with pytest.raises(BrowserError, match="no such"):
        browser.evaluate("(() => { throw new Error('no such') })()")
    monkeypatch.setattr(browser, "timeout", 0.2)
    with pytest.raises(BrowserError, match=r"waited 0\.2 s"):
        browser.wait_for("false")


def test_without_a_browser_that_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert find_chromium() is None
    with pytest.raises(BrowserError, match="found no browser"):
        Browser()
    with pytest.raises(BrowserError, match="ended"):
        Browser("/bin/false", timeout=5)
