"""The book's Sphinx extensions: what they show, and which defects of a chapter make the build fail."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from bs4 import BeautifulSoup, Tag
from sphinx.testing.util import SphinxTestApp

from book.prediction import parse_choices

CLAIM = """
- id: scale-one-over-p
  statement: Kept activations are scaled by $1/p$.
  correction: They are scaled by $1/(1-p)$.
  verdict: false
  said_by: [some posts, "*others*"]
  chapter: scale
  tests: tests/test_scale.py::test_one
"""
CHAPTER = "# Scale\n\nIt is $1/p$ {claim}`scale-one-over-p`. Again {claim}`scale-one-over-p`.\n"
PREDICTION = """
```{prediction} What falls when $p$ *grows*?
Think of one unit.

- [ ] The mean
  : It stays, see {eq}`mean`.
- [x] The share $q$
  : It is $1 - p$.

    And no more.
- [ ] Neither
  : One does.
```

$$
x = 1
$$ (mean)
"""
Build = Callable[..., tuple[Path, list[str]]]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Build a small book and return its folder and its warnings."""
    source = tmp_path / "book"

    def run(chapter: str = CHAPTER, claims: str = CLAIM, builder: str = "html") -> tuple[Path, list[str]]:
        for name, text in {
            "conf.py": "",
            "index.md": "# Book\n\n```{toctree}\nchapters/scale\nclaims\n```\n",
            "claims.md": "# Claims\n\n```{ledger}\n```\n",
            "claims.yml": claims,
            "chapters/scale.md": chapter,
            "tests/test_scale.py": "",
        }.items():
            path = source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.read_text() != text:
                path.write_text(text)
        warnings = StringIO()
        app = SphinxTestApp(
            builder,
            source,
            warning=warnings,
            confoverrides={
                "extensions": ["myst_nb", "book.claims", "book.prediction", "book.accessibility"],
                "myst_enable_extensions": ["dollarmath"],
                "nb_execution_mode": "off",
                "nitpicky": True,
            },
        )
        app.build()
        app.cleanup()
        return Path(app.outdir), [line for line in warnings.getvalue().splitlines() if line]

    return run


def page(out: Path, name: str = "chapters/scale") -> BeautifulSoup:
    return BeautifulSoup((out / f"{name}.html").read_text(), "html.parser")


def test_a_mark_and_its_row_link_to_each_other(build: Build) -> None:
    out, warnings = build()
    assert warnings == []
    first, second = page(out).select(".claim-mark")
    assert first.text == second.text == "(claim: false)"
    assert "claim-false" in first["class"]
    link = first.select_one("a")
    assert link is not None
    assert link["href"] == "../claims.html#claim-scale-one-over-p"
    row = page(out, "claims").find(id="claim-scale-one-over-p")
    assert isinstance(row, Tag)
    back = row.select_one("a[href*=scale]")
    assert back is not None
    assert back["href"] == f"chapters/scale.html#{first['id']}"
    assert not second.get("id")


def test_a_row_shows_everything(build: Build) -> None:
    out, _ = build()
    row = page(out, "claims").find(id="claim-scale-one-over-p")
    assert isinstance(row, Tag)
    text = " ".join(row.text.split())
    for part in (
        "Kept activations",
        "They are scaled",
        "false",
        "some posts",
        "others",
        "tests/test_scale.py::test_one",
    ):
        assert part in text
    assert len(row.select(".math")) == 2
    assert row.select_one("em") is not None


def test_an_empty_ledger_is_shown(build: Build) -> None:
    out, warnings = build("# Scale\n", "[]")
    assert warnings == []
    assert "No claim has been entered yet." in page(out, "claims").text


@pytest.mark.parametrize(
    ("chapter", "claims", "message"),
    [
        (CHAPTER, "[]", "scale.md:3: WARNING: claim 'scale-one-over-p' has no row in claims.yml"),
        ("# Scale\n", CLAIM, "no {claim}`scale-one-over-p` marks it in its chapter scale"),
        (CHAPTER, CLAIM.replace("tests/test_scale.py::test_one", "[]"), "row 1 (scale-one-over-p): has no tests"),
        (CHAPTER, CLAIM.replace("chapter: scale", "chapter: other"), "chapter 'other' is no file"),
        (CHAPTER + "\n[there](other.md)\n", CLAIM, "cross-reference target not found: 'other.md'"),
        (CHAPTER + "\n{ref}`there`\n", CLAIM, "undefined label: 'there'"),
    ],
    ids=[
        "a role without a row",
        "a row without a role",
        "a row without a test",
        "no chapter",
        "a dead link",
        "a dead label",
    ],
)
def test_a_defect_is_a_warning(build: Build, chapter: str, claims: str, message: str) -> None:
    _, warnings = build(chapter, claims)
    assert any(message in warning for warning in warnings), warnings


def test_a_change_of_the_ledger_reaches_every_page(build: Build) -> None:
    build()
    out, warnings = build(claims=CLAIM.replace("verdict: false", "verdict: conditional"))
    assert warnings == []
    assert page(out).select(".claim-conditional")
    assert page(out, "claims").select(".claim-conditional")
    _, warnings = build(claims="[]")
    assert any("has no row" in warning for warning in warnings)


def test_a_mark_that_is_removed_is_missed(build: Build) -> None:
    build()
    _, warnings = build("# Scale\n")
    assert any("marks it in its chapter" in warning for warning in warnings)


def test_a_prediction_is_a_group_of_radio_buttons(build: Build) -> None:
    out, warnings = build("# Scale\n" + PREDICTION, "[]")
    assert warnings == []
    prediction = page(out).select_one(".prediction")
    assert prediction is not None
    assert prediction.select_one("fieldset > legend .math") is not None
    buttons = prediction.select("fieldset label > input[type=radio]")
    assert [button["value"] for button in buttons] == ["1", "2", "3"]
    assert len({button["name"] for button in buttons}) == 1
    assert prediction.select(".prediction-choices label")[1].select_one(".math") is not None
    assert "Think of one unit." in prediction.text
    assert page(out).select_one("script + .prediction, .prediction script") is None


def test_all_answers_are_a_plain_list_in_closed_details(build: Build) -> None:
    out, _ = build("# Scale\n" + PREDICTION, "[]")
    details = page(out).select_one(".prediction [aria-live=polite] > details")
    assert details is not None
    assert "open" not in details.attrs
    answers = details.select("ul > li")
    assert [answer["class"] for answer in answers] == [["answer", "wrong"], ["answer", "right"], ["answer", "wrong"]]
    assert [" ".join(answer.text.split())[:10] for answer in answers] == ["✗ The mean", "✓ The shar", "✗ Neither "]
    assert "And no more." in answers[1].text
    assert answers[1].select_one("blockquote, pre") is None
    link = answers[0].select_one("a[href='#equation-mean']")
    assert link is not None


def test_two_predictions_do_not_share_their_choice(build: Build) -> None:
    out, _ = build("# Scale\n" + PREDICTION + PREDICTION.partition("\n$$")[0], "[]")
    names = {str(button["name"]) for button in page(out).select("input[type=radio]")}
    assert len(names) == 2


def test_other_formats_show_question_choices_and_answers(build: Build) -> None:
    out, warnings = build("# Scale\n" + PREDICTION, "[]", "text")
    assert warnings == []
    text = (out / "chapters" / "scale.txt").read_text()
    assert "What falls when p *grows*?" in text
    assert "* The mean" in text
    assert "* ✗ The mean" in text
    assert "It is 1 - p." in text
    assert "fieldset" not in text


def test_the_empty_corner_of_a_table_is_no_header(build: Build) -> None:
    out, warnings = build("# Scale\n\n| | training |\n|---|---|\n| standard | 1 |\n", "[]")
    assert warnings == []
    assert [(cell.name, cell.text.strip()) for cell in page(out).select("thead tr > *")] == [
        ("td", ""),
        ("th", "training"),
    ]


RIGHT = "- [x] Yes\n  : Because."
WRONG = "- [ ] No\n  : Since not."


def test_choices_are_parsed() -> None:
    introduction, choices = parse_choices(["Think.", "", *WRONG.splitlines(), "", *RIGHT.splitlines()])
    assert introduction == ["Think.", ""]
    assert [(choice.text, choice.right) for choice in choices] == [("No", False), ("Yes", True)]
    assert choices[1].explanation == ["Because."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RIGHT, "has 1 choices; give 2 to 6"),
        ("\n".join([RIGHT, *[WRONG] * 6]), "has 7 choices"),
        ("", "has 0 choices"),
        (f"{WRONG}\n{WRONG}", "marks 0 choices as right"),
        (f"{RIGHT}\n{RIGHT}", "marks 2 choices as right"),
        (f"{WRONG}\n- [x] Yes", "the choice 'Yes' has no explanation"),
        (f"{WRONG}\nstray\n{RIGHT}", "cannot read the line 'stray'"),
        (f"{WRONG}\n- Yes\n", "cannot read the line '- Yes'"),
    ],
)
def test_a_faulty_prediction_says_what_to_mend(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        parse_choices(text.splitlines())


def test_a_faulty_prediction_is_a_warning(build: Build) -> None:
    _, warnings = build(f"# Scale\n\n```{{prediction}} Which?\n{WRONG}\n{WRONG}\n```\n", "[]")
    assert any("marks 0 choices as right" in warning for warning in warnings)
