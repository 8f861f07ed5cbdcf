"""The built book in Chromium: nothing scrolls sideways, nothing is asked of the network, no serious fault of accessibility."""

import threading
from dataclasses import dataclass, field
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import axe_playwright_python
import pytest

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
THEMES = (  # what the theme itself says on the console
    "Got invalid theme mode",
    "THEBE_JS_URL",
    "fa-solid-900.woff2",
    "fa-brands-400.woff2",
    "fa-regular-400.woff2",
    "net::ERR_FAILED",  # the same fonts, which a page from a file may not preload
)
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
WITH_AXE = {"preload": False, "resultTypes": ["violations"]}  # of what passes, one element each
OF_COLOUR = {"runOnly": ["color-contrast", "link-in-text-block"]}  # in the dark: the other rules have seen the same elements
WAYS = {  # of reading the book: the window, the theme, from where, and what axe is asked
    "phone": (PHONE, "light", "file", WITH_AXE),
    "dark": (PHONE, "dark", "file", WITH_AXE | OF_COLOUR),
    "desktop": (DESKTOP, "light", "file", None),
    "http": (DESKTOP, "light", "http", None),
}
WIDER = """() => [...document.querySelectorAll("article *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
    .slice(0, 3).map(e => `${e.tagName}.${e.className}`)"""


@pytest.fixture(scope="module")
def served(html):
    """The book over HTTP on loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=html)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@dataclass
class Visit:
    """What was seen on a way through all pages."""

    root: str
    wide: dict = field(default_factory=dict)  # a page that scrolls sideways -> its width, and what is wider than the window
    faults: dict = field(default_factory=dict)  # a page -> what axe finds serious
    passes: int = 0  # rules of axe that a page passes, over all pages
    asked: set = field(default_factory=set)  # addresses
    told: set = field(default_factory=set)  # errors, on the console and beside it


@pytest.fixture(scope="module")
def visit(browser, html, served):
    """Visits all pages in one of the WAYS; the tests that ask of one way share its visit."""
    return cache(partial(_visit, browser, html, served))


def _visit(browser, html, served, way):
    size, scheme, over, axe = WAYS[way]
    seen = Visit(served if over == "http" else html.as_uri() + "/")
    names = sorted(path.name for path in html.glob("*.html") if path.name != "print.html")  # which repeats the others
    assert len(names) >= 17
    with browser.new_context(viewport=size, color_scheme=scheme) as context:
        for name in names:
            page = context.new_page()
            page.on("request", lambda request: seen.asked.add(request.url))
            page.on("console", lambda said: seen.told.add(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: seen.told.add(str(error)))
            page.goto(seen.root + name, wait_until="load" if axe else "networkidle")
            assert page.evaluate("document.documentElement.dataset.theme") == scheme
            width, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            if width > room:
                seen.wide[name] = width, page.evaluate(WIDER)
            if axe:
                page.evaluate(AXE)
                _heed(page.evaluate("options => axe.run(options)", axe), name, seen)
            page.close()
    return seen


def _heed(result, name, seen):
    seen.passes += len(result["passes"])
    serious = [fault for fault in result["violations"] if fault["impact"] in ("serious", "critical")]
    if serious:
        seen.faults[name] = {f"{fault['id']}: {fault['nodes'][0]['html'][:100]}" for fault in serious}


@pytest.mark.parametrize("way", ["phone", "desktop"])
def test_no_page_scrolls_sideways(visit, way):
    assert visit(way).wide == {}


@pytest.mark.parametrize("way, passes", [("phone", 400), ("dark", 25)], ids=["light", "dark"])
def test_nothing_serious_keeps_a_reader_out(visit, way, passes):
    """By all of axe's rules; in the dark theme by those of colour."""
    assert visit(way).faults == {} and visit(way).passes > passes


@pytest.mark.parametrize("way", ["desktop", "http"])
def test_nothing_is_asked_of_others_and_nothing_fails(visit, way):
    seen = visit(way)
    assert len(seen.asked) > 40 and not [url for url in seen.asked if not url.startswith((seen.root, "data:", "blob:"))]
    assert not [line for line in seen.told if not any(known in line for known in THEMES)]


def test_the_search_finds(browser, served):
    page = browser.new_page(viewport=DESKTOP)
    page.goto(f"{served}search.html?q=kolen")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    assert "method.html" in " ".join(link.get_attribute("href") for link in page.query_selector_all("#search-results li a"))
    page.close()
