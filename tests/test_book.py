"""The book, built strictly from the notebooks as stored: complete, accessible, and asking nothing of the network."""

import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parent.parent
# tag -> the attribute whose address the browser asks for without being told to
LOADED = {
    "script": "src", "img": "src", "iframe": "src", "embed": "src", "source": "src", "video": "src", "audio": "src",
    "object": "data", "link": "href",
}  # fmt: skip
RELATIONS = {"stylesheet", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch", "icon", "manifest"}


@pytest.fixture(scope="session")
def pages(html):
    return {path: BeautifulSoup(path.read_text(), "html.parser") for path in html.glob("*.html")}


@pytest.fixture(scope="session")
def articles(pages):
    """The pages that people wrote, without the theme's own (search, index of names): name -> main part."""
    contents = yaml.safe_load((ROOT / "book/_toc.yml").read_text())
    names = [contents["root"], *(chapter["file"] for chapter in contents["chapters"])]
    return {path.stem: page.find("article") for path, page in pages.items() if path.stem in names}


def external(address):
    return bool(urlsplit(address).netloc)


def loaded(page):
    for tag, attribute in LOADED.items():
        for element in page.find_all(tag):
            if tag == "link" and not RELATIONS & set(element.get("rel", [])):
                continue
            yield from filter(None, [element.get(attribute)])
            yield from (part.split()[0] for part in element.get("srcset", "").split(",") if part.split())


def test_every_image_is_described(pages, articles):
    assert all(image.get("alt") for page in pages.values() for image in page.find_all("img"))
    for name, article in articles.items():
        for image in article.find_all("img"):
            alt = image["alt"]  # a figure without one is given its file's name, a hash
            assert len(alt.split()) >= 3 and "_images" not in alt, f"{name}: {image}"


def test_figures_have_a_number_and_a_caption(articles):
    for name, article in articles.items():
        for figure in article.find_all("figure"):
            assert figure.find(class_="caption-number") and figure.find(class_="caption-text"), f"{name}: {figure}"


def test_pages_ask_nothing_of_the_network(pages, html):
    for path, page in pages.items():
        assert not [address for address in loaded(page) if external(address)], path.name
    for sheet in html.rglob("*.css"):
        asked = re.findall(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)", sheet.read_text())
        assert not asked, sheet.name


def test_every_internal_address_resolves(pages, html):
    targets = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    for path, page in pages.items():
        addresses = {tag["href"] for tag in page.find_all("a", href=True)} | set(loaded(page))
        for address in addresses:
            if urlsplit(address).scheme or external(address):
                continue
            file, fragment = urldefrag(address)
            target = (path.parent / unquote(urlsplit(file).path)).resolve() if file else path
            assert target.exists() and target.is_relative_to(html), f"{path.name}: {address}"
            if fragment and target.suffix == ".html":
                assert unquote(fragment) in targets[target], f"{path.name}: {address}"


def test_every_table_of_ours_has_a_number_and_a_caption(articles):
    seen = 0
    for name, article in articles.items():
        for table in article.find_all("table", class_="table"):
            if "indextable" not in table["class"]:
                seen += 1
                assert table.find(class_="caption-number") and table.find(class_="caption-text").text.strip(), f"{name}: {table}"
    assert seen > 50


def test_the_page_to_print_holds_every_page(pages, articles, html):
    titles = {heading.text for heading in pages[html / "print.html"].find_all(re.compile("^h[1-6]$"))}
    assert {article.find("h1").text for article in articles.values()} <= titles


def test_headings_are_in_order(articles):
    for name, article in articles.items():
        levels = [int(heading.name[1]) for heading in article.find_all(re.compile("^h[1-6]$"))]
        assert levels[:1] == [1] and levels.count(1) == 1, name
        assert all(below - above <= 1 for above, below in zip(levels, levels[1:], strict=False)), f"{name}: {levels}"


def test_mathjax_is_local(pages, html):
    sources = [tag["src"] for tag in pages[html / "method.html"].find_all("script", src=re.compile("mathjax"))]
    (file,) = {urlsplit(source).path for source in sources}
    assert (html / file).resolve() == html.resolve() / "mathjax/tex-svg-full.js"
    assert (html / "mathjax/LICENSE").exists()
