"""The built book in Chromium: nothing scrolls sideways, nothing is asked of the network, no serious fault of accessibility."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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
OF_COLOUR = ["color-contrast", "link-in-text-block"]
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


def names(html):
    found = sorted(path.name for path in html.glob("*.html") if path.name != "print.html")  # which repeats the others
    assert len(found) >= 17
    return found


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_no_page_scrolls_sideways(browser, html, size):
    page, wide = browser.new_page(viewport=size), {}
    for name in names(html):
        page.goto((html / name).as_uri())
        width, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        if width > room:
            wide[name] = width, page.evaluate(WIDER)
    page.close()
    assert wide == {}


@pytest.mark.parametrize("scheme, rules, passes", [("light", None, 400), ("dark", OF_COLOUR, 25)], ids=["light", "dark"])
def test_nothing_serious_keeps_a_reader_out(browser, html, scheme, rules, passes):
    """By all of axe's rules; in the dark theme by those of colour, the others having seen the same elements."""
    import axe_playwright_python

    axe = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
    context, found, seen = browser.new_context(viewport=PHONE, color_scheme=scheme), {}, 0
    for name in names(html):
        page = context.new_page()
        page.goto((html / name).as_uri())
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        page.evaluate(axe)
        options = {"preload": False, "resultTypes": ["violations"]} | ({"runOnly": rules} if rules else {})
        result = page.evaluate("options => axe.run(options)", options)  # of what passes, one element each
        seen += len(result["passes"])
        faults = {
            f"{fault['id']}: {fault['nodes'][0]['html'][:100]}"
            for fault in result["violations"]
            if fault["impact"] in ("serious", "critical")
        }
        found |= {name: faults} if faults else {}
        page.close()
    context.close()
    assert found == {} and seen > passes


@pytest.mark.parametrize("over", ["http", "file"])
def test_nothing_is_asked_of_others_and_nothing_fails(browser, html, served, over):
    root = served if over == "http" else html.as_uri() + "/"
    asked, told = set(), set()
    for name in names(html):
        page = browser.new_page(viewport=DESKTOP)
        page.on("request", lambda request: asked.add(request.url))
        page.on("console", lambda said: told.add(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: told.add(str(error)))
        page.goto(root + name, wait_until="networkidle")
        page.close()
    assert len(asked) > 40 and not [url for url in asked if not url.startswith((root, "data:", "blob:"))]
    assert not [line for line in told if not any(known in line for known in THEMES)]


def test_the_search_finds(browser, served):
    page = browser.new_page(viewport=DESKTOP)
    page.goto(f"{served}search.html?q=kolen")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    assert "method.html" in " ".join(link.get_attribute("href") for link in page.query_selector_all("#search-results li a"))
    page.close()
