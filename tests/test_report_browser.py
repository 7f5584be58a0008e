"""The report as a person sees it: in a headless Chromium, light and dark, wide and narrow."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from experiments.browser import Browser, find_chromium
from tests.report_runs import write_page

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium on this machine (Debian: apt install chromium)"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of a small untrained model."""
    return write_page(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def browser():
    with Browser(timeout=60) as browser:
        yield browser


def show(browser, page, *, dark=False, size=(1280, 900)):
    """Load a file, and forget what was said before."""
    browser.use_dark(dark)
    browser.resize(*size)
    browser.errors.clear()
    browser.open(page.resolve().as_uri())


CONTRASTS = """(() => {
  const parse = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = color => {
    const [r, g, b] = parse(color).map(
      c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    while (element && parse(getComputedStyle(element).backgroundColor)[3] === 0)
      element = element.parentElement;
    return getComputedStyle(element).backgroundColor;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
    if (!text || element.matches("script")) continue;
    const [low, high] = [getComputedStyle(element).color, behind(element)].map(luminance).sort(
      (a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), text]);
  }
  return found;
})()"""
"""JavaScript: the contrast of each piece of text with the background, and the text."""


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(float)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (380, 800)], ids=["wide", "narrow"])
def test_the_page_loads_without_a_word_on_the_console(browser, page, dark, size):
    show(browser, page, dark=dark, size=size)
    assert browser.evaluate("document.readyState") == "complete"
    assert browser.errors == []
    # Nothing was asked of a network, or of another file.
    urls = browser.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [url for url in urls if not url.startswith("data:")] == []
    # The page itself never scrolls sideways.
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_pictures_have_pixels(browser, page, dark):
    show(browser, page, dark=dark)
    number = len(re.findall(r"<img ", page.read_text(encoding="utf-8")))
    assert number >= 7
    shown = browser.evaluate(
        "Promise.all([...document.images].map(async image => { await image.decode(); "
        "return [image.naturalWidth, image.naturalHeight, image.clientWidth, "
        "image.currentSrc.slice(0, 11)]; }))"
    )
    assert len(shown) == number
    for width, height, client, source in shown:
        assert min(width, height) > 50
        assert client > 50
        assert source == "data:image/"


def test_light_and_dark_differ(browser, page):
    views, sources = [], []
    for dark in (False, True):
        show(browser, page, dark=dark)
        views.append(pixels(browser.screenshot(whole_page=False)))
        sources.append(browser.evaluate("[...document.images].map(image => image.currentSrc)"))
    light, dark = (view[5:20, 5:20].mean() for view in views)  # an empty corner
    assert light > 250
    assert dark < 40
    assert all(first != second for first, second in zip(*sources, strict=True))
    # Text is there to be read: bright on dark, dark on bright.
    assert views[0].min() < 80
    assert views[1].max() > 200


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_words_stand_out_from_what_is_behind_them(browser, page, dark):
    show(browser, page, dark=dark)
    contrasts = browser.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    # What WCAG 2 asks of text (1.4.3, level AA).
    assert [found for found in contrasts if found[0] < 4.5] == []


@pytest.mark.parametrize("size", [(1280, 900), (380, 800)], ids=["wide", "narrow"])
def test_pictures_are_never_so_small_that_nothing_can_be_read(browser, page, size):
    show(browser, page, size=size)
    shares = browser.evaluate(
        "[...document.images].map(image => [image.alt, image.clientWidth, "
        "Math.min(704, 0.7 * image.getAttribute('width'))])"
    )
    assert [found for found in shares if found[1] < found[2] - 1] == []


def is_open(browser):
    return browser.evaluate("document.querySelector('dialog').open")


@pytest.mark.parametrize("target", ["dialog", "dialog picture", "dialog button"])
@pytest.mark.parametrize("number", [0, 3])  # a PNG that is large, an SVG that is small
def test_a_click_enlarges_a_picture_and_another_one_closes_it(browser, page, target, number):
    show(browser, page, size=(900, 600))
    assert not is_open(browser)
    browser.evaluate(f"document.querySelectorAll('.zoom')[{number}].click()")
    assert is_open(browser)
    small = browser.evaluate(f"document.querySelectorAll('.zoom img')[{number}].clientWidth")
    assert browser.evaluate("document.querySelector('dialog img').clientWidth") > small
    # It covers the page, whose scroll bars are gone: there is one of each, and of the picture.
    assert browser.evaluate("document.querySelector('dialog').offsetWidth") == 900
    assert browser.evaluate("document.querySelectorAll('dialog img').length") == 1
    browser.evaluate(f"document.querySelector('{target}').click()")
    assert not is_open(browser)
    assert browser.errors == []


def test_keys_enlarge_a_picture_and_close_it(browser, page):
    show(browser, page)
    focused = "document.activeElement"
    for _ in range(30):
        browser.press("Tab", 9)
        if browser.evaluate(f"{focused}.matches('.zoom')"):
            break
    name = browser.evaluate(f"{focused}.ariaLabel")
    assert name.startswith("Enlarge: ")
    for key, code in (("Escape", 27), ("Enter", 13)):  # Enter is on the dialog's own button
        browser.press("Enter", 13)
        assert is_open(browser)
        assert browser.evaluate(f"{focused}.textContent") == "Close"
        browser.press(key, code)
        assert not is_open(browser)
        assert browser.evaluate(f"{focused}.ariaLabel") == name


def test_the_browser_notices_an_error(browser, tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<link rel=icon href='data:,'><script>nothing.here()</script>", "utf-8")
    show(browser, page)
    assert browser.errors
