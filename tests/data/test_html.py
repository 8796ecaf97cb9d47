"""The HTML page: well-formed, escaped, self-contained, the same text for the same figure."""

import re
from xml.etree import ElementTree

import pytest

from itemic.data.html import chart, figure_svg, page, paragraph, table


def drawn() -> str:
    figure, axes = chart("percent of items", "share")
    axes.plot([0, 1, 2], [0, 1, 4], marker="o", label="a <b>")
    axes.legend()
    return figure_svg(figure, caption="shares & more")


@pytest.fixture(scope="module")
def whole() -> str:
    body = paragraph("a < b") + table(["name", "n"], [["<i>", 1200], ["b", 7]]) + drawn() + drawn()
    return page("Shop & <co>", [("Counts", body)], subtitle='"quoted"')


def test_a_page_is_well_formed_and_keeps_text_as_text(whole: str):
    root = ElementTree.fromstring(whole)
    words = "".join(root.itertext())
    for text in ("Shop & <co>", "a < b", "<i>", "1,200", "shares & more", "a <b>", '"quoted"'):
        assert text in words


def test_a_page_needs_nothing_from_elsewhere(whole: str):
    assert not re.search(r"<(script|link|img|iframe)|src=|@import|url\((?!#)", whole)
    assert set(re.findall(r'href="(.)', whole)) <= {"#"}


def test_numbers_stand_on_the_right_and_words_on_the_left():
    text = table(["name", "recall@20"], [["ease", "0.1909"], ["popularity", "0.0416"]])
    assert '<th class="number">recall@20</th>' in text
    assert '<td class="number">0.0416</td>' in text
    assert "<th>name</th>" in text


def test_a_table_without_rows_has_only_its_header():
    assert table(["name"], []).count("<tr>") == 1


def test_equal_figures_give_equal_text_and_their_ink_is_the_text_colour():
    first = drawn()
    assert first == drawn()
    assert "currentColor" in first
    assert "#16191d" not in first


def test_every_reference_in_a_figure_finds_its_target():
    svg = drawn()
    wanted = set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
    assert wanted
    assert wanted <= set(re.findall(r' id="([^"]+)"', svg))


def test_large_numbers_on_the_axis_of_a_chart_have_separators():
    figure, axes = chart("time", "interactions")
    axes.plot([0, 1], [0, 500_000])
    assert ">500,000</text>" in figure_svg(figure)
