"""Draws the font of the few icons that pages show, from the theme's own icon font.

`python -m book.icons` stores it. The icons are those of Font Awesome Free; its font is under the SIL Open Font License.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

PATH = Path(__file__).parent / "static" / "icons.woff"
# What the theme's pages and scripts show with the class `fa-NAME`.
NAMES = (
    "angle-left",
    "angle-right",
    "arrow-up",
    "bars",
    "circle-half-stroke",
    "download",
    "list",
    "magnifying-glass",
    "moon",
    "outdent",
    "sun",
    "xmark",
)
# What style sheets show by its code: boxes, links to other sites, the folded list of contents.
BY_CODE = frozenset("\uf058\uf05a\uf071\uf06a\uf057\uf0eb\uf019\uf104\uf105\uf107\uf35d\uf010\uf064\uf0f3\uf303")
_RULE = re.compile(r'(?P<names>(?:\.fa-[\w-]+:before,?)+)\{content:"\\(?P<code>[^"]+)"\}')
_FACE = re.compile(r"@font-face\{[^}]*Font Awesome[^}]*\}")
_SHEET = "pydata-sphinx-theme.css"


def theme(*parts: str) -> Path:
    """Return a file among those that the theme's pages load."""
    return Path(str(files("pydata_sphinx_theme"))).joinpath("theme", "pydata_sphinx_theme", "static", *parts)


def codes(style_sheet: str) -> dict[str, str]:
    """Return the character of each icon that a style sheet knows by name."""
    return {
        name: chr(int(rule["code"].strip(), 16))
        for rule in _RULE.finditer(style_sheet)
        if re.fullmatch(r"[0-9a-f]+ ?", rule["code"])
        for name in re.findall(r"\.fa-([\w-]+):", rule["names"])
    }


def strip(style_sheet: str) -> str:
    """Return a style sheet without the icons that no page shows, and without the fonts that hold them."""

    def kept(rule: re.Match[str]) -> str:
        return rule[0] if set(re.findall(r"\.fa-([\w-]+):", rule["names"])) & set(NAMES) else ""

    return _FACE.sub("", _RULE.sub(kept, style_sheet))


def draw(path: Path = PATH) -> None:
    """Store a font of those icons alone."""
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTFont

    known = codes(theme("styles", _SHEET).read_text(encoding="utf-8"))
    # A changed font may not keep the reserved name, so it keeps none.
    options = Options(flavor="woff", name_IDs=[], hinting=False, desubroutinize=True, recalc_timestamp=False)
    font = TTFont(theme("vendor", "fontawesome", "webfonts", "fa-solid-900.ttf"))
    subset = Subsetter(options)
    subset.populate(text="".join({known[name] for name in NAMES} | BY_CODE))
    subset.subset(font)
    font.flavor = "woff"
    font.save(path)


if __name__ == "__main__":
    draw()
