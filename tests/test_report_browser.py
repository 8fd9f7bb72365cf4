"""The page in a real Chromium, from disk and without network: what a reader does and sees."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from report.page import build_report
from tests._report_fixtures import HOSTILE, IN_BOTH, ONLY_FOUND, make_contents

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
DRIVER = shutil.which("chromedriver") or ""
SKY_BLUE, YELLOW = (86, 180, 233), (240, 228, 66)  # of the tumor and the pancreas found
SECONDS = 120  # for a drawing on a busy CPU

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium with chromedriver (Debian: apt-get install chromium chromium-driver)",
    ),
]


def start(*options: str) -> webdriver.Chrome:
    """Chromium without a window and without any name it could look up."""
    chosen = webdriver.ChromeOptions()
    chosen.binary_location = CHROMIUM
    for option in (
        *("--headless=new", "--window-size=1100,800", "--host-resolver-rules=MAP * ~NOTFOUND"),
        *("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars"),
        *("--disable-background-networking", "--force-prefers-reduced-motion", *options),
        *(("--no-sandbox",) if os.geteuid() == 0 else ()),
    ):
        chosen.add_argument(option)
    chosen.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=chosen, service=Service(DRIVER))


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worst, the best and a hostile case with volumes, case 3 with pictures."""
    contents = make_contents(("case 1", "case 2", "case 3", HOSTILE))
    return build_report(tmp_path_factory.mktemp("page") / "report.html", contents, viewers=3)


class Page:
    """An open page."""

    def __init__(self, browser: webdriver.Chrome, path: Path) -> None:
        self.browser = browser
        self.browser.get(path.as_uri())

    def run(self, script: str, *values: Any) -> Any:
        return self.browser.execute_script(script, *values)

    def wait(self, condition: str) -> None:
        WebDriverWait(self.browser, SECONDS, 0.1).until(
            lambda _: self.run(f"return Boolean({condition})"), condition
        )

    def element(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [item.text for item in self.browser.find_elements(By.CSS_SELECTOR, selector)]

    def open(self, case: int) -> None:
        """Click a case's row, and wait until the viewer shows it."""
        self.element(f"#table tr[data-case='{case}'] button").click()
        self.wait(f"reportPage.state.current === {case} && reportPage.viewer.ready")

    def set_value(self, selector: str, value: float | str) -> None:
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.run(script, self.element(selector), value)

    def requests(self) -> list[str]:
        """What has been asked for since the last call, the page's own data aside."""
        events = [json.loads(entry["message"]) for entry in self.browser.get_log("performance")]
        addresses = [
            event["message"]["params"]["request"]["url"]
            for event in events
            if event["message"]["method"] == "Network.requestWillBeSent"
        ]
        return [address for address in addresses if not address.startswith("data:")]

    def color_at(self, voxel: tuple[int, int, int], plane: int) -> tuple[int, ...]:
        """The RGB on the screen over a voxel (z, y, x), in a plane that the crosshair is in."""
        script = """
            const { nv, one } = reportPage.viewer, [z, y, x] = arguments[0];
            const back = (axis, n) => one.start[axis] + one.crop[axis] - 1 - n;
            const own = [back(2, x), back(1, y), z - one.start[0]];
            const found = nv.frac2canvasPosWithTile(nv.vox2frac(own), arguments[1]);
            nv.canvas.scrollIntoView({ block: "center", behavior: "instant" });
            const place = nv.canvas.getBoundingClientRect();
            const scale = place.width / nv.canvas.width;
            return [place.left + found.pos[0] * scale, place.top + found.pos[1] * scale];
        """
        x, y = self.run(script, list(voxel), plane)
        picture = np.frombuffer(base64.b64decode(self.browser.get_screenshot_as_base64()), np.uint8)
        shown = cv2.imdecode(picture, cv2.IMREAD_COLOR)
        assert shown is not None
        blue, green, red = shown[round(y), round(x)].tolist()
        return red, green, blue


@pytest.fixture(scope="module")
def page(page_file: Path) -> Iterator[Page]:
    browser = start()
    try:
        opened = Page(browser, page_file)
        opened.wait("reportPage.viewer.ready")
        yield opened
    finally:
        browser.quit()


def test_it_opens_without_an_error_and_asks_for_nothing(page: Page, page_file: Path) -> None:
    assert page.browser.get_log("browser") == []
    assert page.requests() == [page_file.as_uri()]
    assert page.element("#canvas").is_displayed()
    assert not page.element("#pictures").is_displayed()


def test_the_worst_case_is_open_and_first(page: Page) -> None:
    assert page.element("#viewer-title").text == "C case 1"
    assert page.texts("#table tbody th button")[0] == "case 1"
    assert page.texts("#extremes h3") == ["Worst", "Best"]
    assert "DSC 20.0 %" in page.texts("#extremes .card")[0]


def test_a_click_on_a_case_shows_its_slice(page: Page) -> None:
    page.open(1)
    page.element("#foci button").click()
    assert page.element("#foci button").text == "Go to the tumor"
    readout = page.element("#readout").text
    assert readout.startswith("axial 9, coronal 18, sagittal 17")
    assert "tumor, label" in readout
    hu = float(readout.split("·")[1].split()[0])
    assert abs(hu) <= 1  # the tumor of the phantom has 0 HU


def test_the_pixel_over_a_voxel_has_the_overlays_color(page: Page) -> None:
    page.open(0)
    page.set_value("#opacity", 100)
    z, y, x = IN_BOTH
    page.run("reportPage.viewer.goTo(arguments[0])", [z, y, x])
    # In each plane, off the crosshair and the outlines.
    for plane, voxel in enumerate([(z, y - 1, x + 4), (z - 1, y, x + 6), (z - 1, y - 2, x)]):
        assert np.allclose(page.color_at(voxel, plane), SKY_BLUE, atol=3), (voxel, plane)
    outside = (8, 11, 30)  # found pancreas only
    page.run("reportPage.viewer.goTo(arguments[0])", [8, 20, 20])
    assert np.allclose(page.color_at(outside, 0), YELLOW, atol=3)
    page.set_value("#opacity", 0)
    red, green, blue = page.color_at(outside, 0)
    assert red == green == blue  # the CT alone
    page.set_value("#opacity", 40)


def test_the_window_changes_the_gray(page: Page) -> None:
    page.open(0)
    page.run("reportPage.viewer.goTo([2, 20, 20])")
    before = page.color_at((2, 5, 5), 0)
    page.run(
        "const s = document.getElementById('window-preset'); s.value = 2;"
        "s.dispatchEvent(new Event('change'))"
    )
    assert page.color_at((2, 5, 5), 0)[0] < before[0] - 20  # 40 HU of 10 to 160, not -100 to 240


def test_an_overlay_is_switched_off(page: Page) -> None:
    page.open(0)
    page.set_value("#opacity", 100)
    page.run("reportPage.viewer.goTo([8, 22, 28])")
    box = page.element("#layers label:last-child input")
    box.click()
    assert np.allclose(page.color_at(ONLY_FOUND, 0), YELLOW, atol=3)  # what lies below it
    box.click()
    assert np.allclose(page.color_at(ONLY_FOUND, 0), SKY_BLUE, atol=3)
    page.set_value("#opacity", 40)


def test_the_keyboard_scrolls_and_changes_the_case(page: Page) -> None:
    page.open(0)
    page.run("reportPage.viewer.goTo([8, 20, 20])")
    place = page.element("#canvas-place")
    place.send_keys(Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_RIGHT, Keys.PAGE_UP)
    assert page.element("#readout").text.startswith("axial 11, coronal 20, sagittal 22")
    place.send_keys("t")
    assert page.element("#readout").text.startswith("axial 9, coronal 18, sagittal 17")
    place.send_keys("n")
    page.wait("reportPage.state.current === 3 && reportPage.viewer.ready")  # 20, then 35 %
    place.send_keys("p")
    page.wait("reportPage.state.current === 0 && reportPage.viewer.ready")


def test_columns_sort_up_and_down(page: Page) -> None:
    def column() -> list[float]:
        return [float(t) for t in page.texts("#table tbody tr td:nth-child(2)")]

    head = "#table th button[data-column='dsc']"
    page.element("#table th button[data-column='case']").click()
    page.element(head).click()
    assert column() == [20, 35, 50, 80]
    assert page.element("#table th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.element(head).click()
    assert column() == [80, 50, 35, 20]
    page.set_value("#find", "case 3")
    assert column() == [50]
    page.set_value("#find", "")
    page.element(head).click()


def test_another_result_has_its_own_worst_case(page: Page) -> None:
    choose = (
        "const s = document.getElementById('result'); s.value = {};"
        "s.dispatchEvent(new Event('change'))"
    )
    page.run(choose.format(1))
    assert page.texts("#table tbody th button")[0] == "case 2"
    page.run(choose.format(0))
    assert page.texts("#table tbody th button")[0] == "case 1"


def test_a_case_without_a_volume_has_pictures(page: Page) -> None:
    page.element("#table tr[data-case='2'] button").click()
    page.wait("reportPage.state.current === 2")
    assert page.element("#pictures").is_displayed()
    assert len(page.texts("#pictures figure")) == 3
    assert not page.element("#canvas").is_displayed()
    page.open(0)


def test_a_hostile_name_is_text(page: Page) -> None:
    page.open(3)
    assert page.element("#viewer-title").text == f"C {HOSTILE}"
    assert page.browser.title == "A page"
    assert page.run("return document.querySelectorAll('img').length") == 0


def test_a_dot_of_a_chart_opens_its_case(page: Page) -> None:
    dot = page.element("#distributions .dot[data-case='1']")
    page.run("arguments[0].dispatchEvent(new MouseEvent('click', { bubbles: true }))", dot)
    page.wait("reportPage.state.current === 1 && reportPage.viewer.ready")
    assert page.element("#viewer-title").text == "C case 2"


@pytest.mark.parametrize("width", [390, 768])
def test_it_is_no_wider_than_a_small_screen(page: Page, width: int) -> None:
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert page.run("return document.documentElement.scrollWidth") <= width
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_mode_is_dark(page: Page) -> None:
    def background() -> int:
        color = page.run("return getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in color[4:-1].split(","))

    light = background()
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    assert light > 600
    assert background() < 150
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_after_all_of_this_there_is_still_no_error_and_no_request(page: Page) -> None:
    assert page.browser.get_log("browser") == []
    assert page.requests() == []


def test_without_webgl_there_are_pictures(page_file: Path) -> None:
    browser = start("--disable-3d-apis")
    try:
        page = Page(browser, page_file)
        page.wait("window.reportPage && document.querySelector('#pictures svg')")
        assert page.element("#pictures").is_displayed()
        assert not page.element("#canvas").is_displayed()
        assert "no WebGL 2" in page.element("#viewer-hint").text
        assert page.run(
            "return document.querySelector('#pictures image').href.baseVal.slice(0, 14)"
        ) == ("data:image/png")
        loaded = (
            "return new Promise(done => { const i = new Image(); i.onload = () => done(i.width);"
        )
        loaded += "i.src = document.querySelector('#pictures image').href.baseVal; })"
        assert page.run(loaded) == 48  # the policy lets it load
        page.element("#table tr[data-case='3'] button").click()
        assert page.element("#viewer-title").text == f"C {HOSTILE}"
        assert page.browser.get_log("browser") == []
    finally:
        browser.quit()
