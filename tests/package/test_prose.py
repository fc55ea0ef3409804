"""The English of docstrings and READMEs: plain, and short enough to be read once."""

from __future__ import annotations

import pytest

from tests.support.prose import ROOT, docstrings, per_10_000, sentences, text_of
from tests.support.readme import READMES, TOP

MOST_HABITS = 20
"""In 10,000 words; the best codebases of this field have none to three."""

MOST_WORDS = 15
LONGEST_README = 250


def test_docstrings_have_few_habits_that_make_english_hard_to_read() -> None:
    texts = list(docstrings(ROOT / "recommender"))
    assert len(texts) > 1_000
    worst = [f"{text.place}: {', '.join(text.habits)}" for text in texts if text.habits]
    assert per_10_000(texts) <= MOST_HABITS, "\n".join(worst)


def test_readmes_have_few_habits_that_make_english_hard_to_read() -> None:
    texts = [text_of(readme.name, readme.text) for readme in READMES]
    worst = [f"{text.place}: {', '.join(text.habits)}" for text in texts if text.habits]
    assert per_10_000(texts) <= MOST_HABITS, "\n".join(worst)


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.name)
def test_sentences_of_readmes_are_short(readme: object) -> None:
    lengths = sentences(readme.text)  # type: ignore[attr-defined]
    assert sum(lengths) / len(lengths) <= MOST_WORDS


def test_the_top_readme_is_short() -> None:
    assert TOP.text.count("\n") <= LONGEST_README


@pytest.mark.parametrize(
    ("written", "habits"),
    [
        ("Return the rows.", ()),
        ("What a page shows.", ("What",)),
        ("Of each kind the table, where there is none.", ("Of each", "where there is")),
        ("Return those of a user, anew.", ("those of", "anew")),
        ("Return `those of` it.", ()),
    ],
)
def test_habits_are_found_in_prose_and_not_in_code(written: str, habits: tuple[str, ...]) -> None:
    assert text_of("here", written).habits == habits


def test_sentences_are_counted_without_headings_tables_and_code() -> None:
    text = (
        "# Head line here\n\nOne two three. Four five\nsix seven.\n\n| a | b c |\n\n- Eight nine\n"
    )
    assert sentences(text) == [3, 4, 2]
