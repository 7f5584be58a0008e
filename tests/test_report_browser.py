"""The report as a person sees it: in a headless Chromium, light and dark, wide and narrow."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from tests.browser import Browser, find_chromium
from tests.report_runs import make_findings, write_page

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium on this machine (Debian: apt install chromium)"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of a small untrained model."""
    return write_page(make_findings(), tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def browser():
    browser = Browser(find_chromium())
    yield browser
    browser.close()


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(float)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (380, 800)], ids=["wide", "narrow"])
def test_the_page_loads_without_a_word_on_the_console(browser, page, dark, size):
    browser.open(page, dark=dark, size=size)
    assert browser.run("document.readyState") == "complete"
    assert browser.problems == []
    # Nothing was asked of a network, or of another file.
    urls = browser.run("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [url for url in urls if not url.startswith("data:")] == []
    # The page itself never scrolls sideways.
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_pictures_have_pixels(browser, page, dark):
    browser.open(page, dark=dark)
    number = len(re.findall(r"<img ", page.read_text(encoding="utf-8")))
    assert number >= 7
    shown = browser.run(
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
        browser.open(page, dark=dark)
        views.append(pixels(browser.screenshot()))
        sources.append(browser.run("[...document.images].map(image => image.currentSrc)"))
    light, dark = (view[5:20, 5:20].mean() for view in views)  # an empty corner
    assert light > 250
    assert dark < 40
    assert all(first != second for first, second in zip(*sources, strict=True))
    # Text is there to be read: bright on dark, dark on bright.
    assert views[0].min() < 80
    assert views[1].max() > 200


def test_a_click_enlarges_a_picture_and_another_one_closes_it(browser, page):
    browser.open(page, size=(500, 600))
    assert not browser.run("document.querySelector('dialog').open")
    browser.run("document.querySelector('.zoom').click()")
    assert browser.run("document.querySelector('dialog').open")
    small = browser.run("document.querySelector('.zoom img').clientWidth")
    assert browser.run("document.querySelector('dialog img').clientWidth") > small
    browser.run("document.querySelector('dialog').click()")
    assert not browser.run("document.querySelector('dialog').open")
    assert browser.problems == []


def test_the_browser_notices_an_error(browser, tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<link rel=icon href='data:,'><script>nothing.here()</script>", "utf-8")
    browser.open(page)
    assert browser.problems
