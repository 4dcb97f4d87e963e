"""A window of a real browser, used as a person uses it; each page of the site is inspected."""

from __future__ import annotations

import json
from base64 import b64decode
from importlib.resources import files
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import staleness_of, title_is
from selenium.webdriver.support.ui import WebDriverWait

SECONDS = 10
WIDTH, HEIGHT = 900, 700
NARROW = 360
MOST_TABS = 60
#: What Django's admin shows within its frame that is not the app's.
FOREIGN = ["#toolbar", "#content > ul"]
#: Django's admin names no icon, so browsers ask for this one, which the example has not.
NO_ICON = "/favicon.ico "

AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
RUN_AXE = """
const [part, foreign, done] = arguments;
axe.run({include: [part], exclude: foreign}, {resultTypes: ["violations"]}).then(
    ({violations}) => done(violations.flatMap(({id, help, nodes}) =>
        nodes.map(node => `${id} (${help}): ${node.html}`))),
    error => done([String(error)]));
"""
INLINE = """
return [...document.querySelector(arguments[0]).querySelectorAll("*")].filter(element =>
    element.matches("style, script:not([src])") ||
    [...element.attributes].some(({name}) => name == "style" || name.startsWith("on"))
).map(element => element.outerHTML);
"""
FOCUSABLE = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex]"
FOCUSED = """
const element = document.activeElement, style = getComputedStyle(element);
return [element, style.outlineStyle != "none" && parseFloat(style.outlineWidth) > 0];
"""
LOOKS = """
const properties = ["background-color", "border-top-color", "border-top-width",
    "color", "display", "list-style-type", "text-decoration-line"];
return [...document.querySelectorAll(
    ".ilert-button, .ilert-card, .ilert-message, .ilert-badge, .ilert-scopes li, #id_tenant")]
    .map(element => [element.outerHTML, properties.map(name => getComputedStyle(element)[name])]);
"""
ADD_STYLE = """
const style = document.createElement("style");
style.textContent = arguments[0];
document.head[arguments[1]](style);
"""
BRIGHTNESS = """
const [data, done] = arguments;
const picture = new Image();
picture.onload = () => {
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.drawImage(picture, 0, 0);
    const [red, green, blue] = canvas.getImageData(0, 0, 1, 1).data;
    done((red + green + blue) / 765);
};
picture.src = `data:image/png;base64,${data}`;
"""


class Window:
    """``allowed_errors`` are parts of what the console may say, where a page is meant to fail."""

    def __init__(self, driver: Chrome, site_url: str, ilert_url: str, pictures: Path | None):
        self._driver = driver
        self._site_url = site_url
        self._ilert_url = ilert_url
        self._pictures = pictures
        self._scripts = True
        self.allowed_errors = [NO_ICON]

    # Where it is

    @property
    def path(self) -> str:
        url = urlsplit(self._driver.current_url)
        return f"{url.path}?{url.query}".rstrip("?")

    @property
    def is_at_site(self) -> bool:
        return self._driver.current_url.startswith(self._site_url)

    @property
    def is_at_ilert(self) -> bool:
        return self._driver.current_url.startswith(self._ilert_url)

    @property
    def heading(self) -> str:
        return self._driver.find_element(By.TAG_NAME, "h1").text

    @property
    def language(self) -> str | None:
        return self._page().get_attribute("lang")

    @property
    def text(self) -> str:
        return self._driver.find_element(By.TAG_NAME, "body").text

    @property
    def messages(self) -> list[str]:
        found = self._driver.find_elements(By.CSS_SELECTOR, ".ilert-message, .messagelist li")
        return [message.text for message in found]

    def card(self, heading: str) -> str:
        return self._driver.find_element(By.XPATH, _under(heading)).text

    # What a person does

    def log_in(self, session_key: str) -> None:
        self._driver.get(f"{self._site_url}/login/")
        self._driver.add_cookie({"name": "sessionid", "value": session_key, "httpOnly": True})

    def open(self, path: str) -> None:
        self._driver.get(f"{self._site_url}{path}")
        self._inspect()

    def press(self, name: str, *, within: str = "") -> None:
        """The button or link of this name, in the card of this heading if one is given."""
        page = self._page()
        self.control(name, within=within).click()
        self._arrive(page)

    def follow(self, path: str) -> None:
        """As a link of the page that is open would."""
        page = self._page()
        self.run(f"location.href = '{path}'")
        self._arrive(page)

    def go_back(self) -> None:
        self._driver.back()

    def control(self, name: str, *, within: str = "") -> WebElement:
        by_text = f"(self::button or self::a[@href]) and normalize-space()='{name}'"
        by_value = f"self::input[@type='submit'] and @value='{name}'"
        path = f"{_under(within) if within else ''}//*[{by_text} or {by_value}]"
        return self._driver.find_element(By.XPATH, path)

    def fill_in(self, **fields: str) -> None:
        for name, text in fields.items():
            self._driver.find_element(By.NAME, name).send_keys(text)

    def choose(self, name: str, value: object) -> None:
        found = f"[name={name}][value='{value}'], [name={name}] option[value='{value}']"
        self._driver.find_element(By.CSS_SELECTOR, found).click()

    def new_tab(self) -> str:
        self._driver.switch_to.new_window("tab")
        return self.tab

    @property
    def tab(self) -> str:
        return self._driver.current_window_handle

    def switch_to(self, tab: str) -> None:
        self._driver.switch_to.window(tab)

    def _page(self) -> WebElement:
        return self._driver.find_element(By.TAG_NAME, "html")

    def _arrive(self, left: WebElement) -> None:
        # While it is being left, the driver may not know what to say of it.
        wait = WebDriverWait(self._driver, SECONDS, ignored_exceptions=[WebDriverException])
        wait.until(staleness_of(left))
        self._inspect()

    # By keyboard

    def tab_to(self, name: str) -> None:
        """Presses Tab until the button or link of this name has the focus."""
        wanted = self.control(name)
        for _ in range(MOST_TABS):
            self._type(Keys.TAB)
            if self._focused()[0] == wanted:
                return
        raise AssertionError(f"Tab does not reach {name}")

    def enter(self) -> None:
        page = self._page()
        self._type(Keys.ENTER)
        self._arrive(page)

    def tab_order(self) -> tuple[list[WebElement], list[WebElement]]:
        """What Tab reaches in turn, and what of it does not show that it has the focus."""
        reached: list[WebElement] = []
        unseen: list[WebElement] = []
        for _ in range(MOST_TABS):
            self._type(Keys.TAB)
            element, is_seen = self._focused()
            if element.tag_name == "body" or element in reached:
                break
            reached.append(element)
            unseen += [] if is_seen else [element]
        return reached, unseen

    def controls(self) -> list[WebElement]:
        found = self._driver.find_elements(By.CSS_SELECTOR, FOCUSABLE)
        return [element for element in found if element.is_displayed()]

    def _type(self, key: str) -> None:
        self._driver.switch_to.active_element.send_keys(key)

    def _focused(self) -> tuple[WebElement, bool]:
        element, is_seen = self._driver.execute_script(FOCUSED)
        return element, is_seen

    # What kind of window it is

    def be_narrow(self) -> None:
        """A phone's: touched, not pointed at."""
        self.resize(NARROW, mobile=True)
        self._command("Emulation.setTouchEmulationEnabled", enabled=True)

    def resize(self, width: int, height: int = HEIGHT, *, mobile: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self._command("Emulation.setDeviceMetricsOverride", **metrics)

    def run(self, script: str) -> None:
        self._driver.execute_script(script)

    def wait_for_title(self, title: str) -> None:
        WebDriverWait(self._driver, SECONDS).until(title_is(title))

    def be_dark(self) -> None:
        feature = {"name": "prefers-color-scheme", "value": "dark"}
        self._command("Emulation.setEmulatedMedia", features=[feature])

    def prefer(self, language: str) -> None:
        self._command("Network.enable")
        self._command("Network.setExtraHTTPHeaders", headers={"Accept-Language": language})

    def run_no_script(self) -> None:
        self._scripts = False
        self._command("Emulation.setScriptExecutionDisabled", value=True)

    def add_style(self, css: str, place: str) -> None:
        """``place`` is ``prepend`` or ``append``: before or behind the page's own."""
        self._driver.execute_script(ADD_STYLE, css, place)

    @property
    def looks(self) -> list[list[Any]]:
        """Of each of our elements its HTML, and how it is drawn."""
        return cast(list[list[Any]], self._driver.execute_script(LOOKS))

    @property
    def width_of_page(self) -> int:
        return cast(int, self._driver.execute_script("return document.documentElement.scrollWidth"))

    def box_of(self, selector: str) -> dict[str, float]:
        script = "return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()"
        return cast(dict[str, float], self._driver.execute_script(script, selector))

    def style_of(self, selector: str, name: str) -> str:
        element = self._driver.find_element(By.CSS_SELECTOR, selector)
        return element.value_of_css_property(name)

    @property
    def brightness(self) -> float:
        """Of what the top left corner shows, 0 to 1."""
        corner = {"x": 0, "y": 0, "width": 1, "height": 1, "scale": 1}
        shot = self._command("Page.captureScreenshot", clip=corner)
        return cast(float, self._driver.execute_async_script(BRIGHTNESS, shot["data"]))

    def take_picture(self, name: str) -> None:
        """Of the complete page."""
        if self._pictures is None:
            return
        self._pictures.mkdir(parents=True, exist_ok=True)
        shot = self._command("Page.captureScreenshot", captureBeyondViewport=True)
        (self._pictures / f"{name}.png").write_bytes(b64decode(shot["data"]))

    def _command(self, name: str, **parameters: Any) -> dict[str, Any]:
        return cast(dict[str, Any], self._driver.execute_cdp_cmd(name, parameters))

    # What is wrong with it

    def _inspect(self) -> None:
        part = self._our_part()
        if part and self._scripts:
            wrong = self.violations(part) + self._driver.execute_script(INLINE, part)
            if wrong:
                raise AssertionError("\n".join([self.path, *wrong]))

    def _our_part(self) -> str:
        """As a selector. Of ilert's pages it is nothing, of Django's admin what is in its frame."""
        if not self.is_at_site:
            return ""
        if self.path.startswith("/admin/"):
            return "#content" if self.path.startswith("/admin/ilert_oauth/") else ""
        return "html"

    def violations(self, part: str = "html") -> list[str]:
        self._driver.execute_script(AXE)
        return cast(list[str], self._driver.execute_async_script(RUN_AXE, part, FOREIGN))

    def console_errors(self) -> list[str]:
        said = [entry["message"] for entry in logged(self._driver, "browser")]
        return [text for text in said if not any(part in text for part in self.allowed_errors)]

    def other_hosts(self) -> set[str]:
        """Those that are neither the site nor ilert and were asked for something."""
        ours = {urlsplit(self._site_url).netloc, urlsplit(self._ilert_url).netloc, ""}
        return {urlsplit(url).netloc for url in self._requested()} - ours

    def _requested(self) -> list[str]:
        entries = [json.loads(entry["message"]) for entry in logged(self._driver, "performance")]
        events = [entry["message"] for entry in entries]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]


def logged(driver: Chrome, kind: str) -> list[dict[str, Any]]:
    """Since this was last asked for."""
    return cast(list[dict[str, Any]], driver.execute("getLog", {"type": kind})["value"])


def _under(heading: str) -> str:
    return f"//*[contains(@class, 'ilert-card')][.//h2[normalize-space()='{heading}']]"
