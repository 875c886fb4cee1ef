"""Figures as SVG within a page: without styles of their own, in the colors of the page's theme."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from lit_optim.results.axes import TARGET_COLOR
from lit_optim.results.looks import COLORS, GRAY, PAGE, SCALE

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
#: What a page calls the colors of figures.
THEMED = {
    PAGE.ink: "ink",
    PAGE.grid: "line",
    TARGET_COLOR: "muted",
    GRAY: "others",
    **{color: f"c{place}" for place, color in enumerate(COLORS)},
    **{color: f"q{place}" for place, color in enumerate(SCALE)},
}
DROPPED = {"metadata", "style", "title"}
MARK = re.compile(r"(run|row)-(\d+)(-hidden)?$")
FONT = re.compile(r"font: (?:(\d+) )?([\d.]+)px [^;]*")  # of matplotlib below 3.11
FAMILY = re.compile(r"font-family: [^;]*;? ?")  # text has the font of the page
NUMBER = re.compile(r"-?\d+\.\d{2,}")
COLOR = re.compile(r"#[0-9a-f]{6}")


class Styles:
    """The styles of all figures of a page, each as a class: a strict page allows none in place."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, style: str) -> str:
        """Return the class of a style."""
        style = FAMILY.sub("", FONT.sub(_font, style))
        style = COLOR.sub(lambda m: f"var(--{THEMED[m[0]]})" if m[0] in THEMED else m[0], style)
        return self._names.setdefault(style, f"f{len(self._names)}")

    def css(self) -> str:
        """Return the rules of the classes."""
        return "\n".join(f".{name} {{ {style} }}" for style, name in self._names.items())


def _font(match: re.Match[str]) -> str:
    return f"font-size: {match[2]}px" + (f"; font-weight: {match[1]}" if match[1] else "")


def write_svg(figure: Any, name: str, label: str, styles: Styles) -> str:
    """Return a figure as an `<svg>` for a page.

    What stands for a run or a row has the attribute `data-run` or `data-row`, and where it is a
    thin line also a wide transparent one to point at.

    Args:
        figure: of matplotlib.
        name: a word for its ids, of which a page has several figures.
        label: what it shows, for those who do not see it.
        styles: gets its styles.
    """
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _plain(child.tag) in DROPPED:
                parent.remove(child)
    for element in list(root.iter()):
        _translate(element, name, styles)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": label, "class": "figure"}
    for element in root.iter():
        element.tag = _plain(element.tag)
    return ElementTree.tostring(root, encoding="unicode")


def _plain(tag: str) -> str:
    return tag.removeprefix(SVG)


def _translate(element: ElementTree.Element, name: str, styles: Styles) -> None:
    attributes = element.attrib
    link = attributes.pop(f"{XLINK}href", None)
    if link is not None:
        attributes["href"] = f"#{name}-{link.removeprefix('#')}"
    if "clip-path" in attributes:
        attributes["clip-path"] = attributes["clip-path"].replace("url(#", f"url(#{name}-")
    own = attributes.pop("id", "")
    mark = MARK.match(own)
    if _plain(element.tag) == "g":
        if mark:
            attributes[f"data-{mark[1]}"] = mark[2]
            attributes["class"] = "mark hidden" if mark[3] else "mark"
            for path in list(_drawn_paths(element)):
                path.append(ElementTree.Element(f"{SVG}path", {"d": path[0].attrib["d"]}))
                path[-1].attrib["class"] = "hit"
        elif own == "label":
            attributes["class"] = "label"
    elif own:
        attributes["id"] = f"{name}-{own}"
    style = attributes.pop("style", "")
    if style:
        classes = [attributes.get("class", ""), styles.name(style)]
        attributes["class"] = " ".join(filter(None, classes))
    for key in ("d", "x", "y", "transform", "points"):
        if key in attributes:
            attributes[key] = NUMBER.sub(_round, attributes[key]).replace("\n", "")


def _drawn_paths(element: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """The element, if it draws a line within the frame by itself, not by repeating a marker."""
    children = list(element)
    if children and _plain(children[0].tag) == "path" and children[0].get("d"):
        yield element


def _round(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")
