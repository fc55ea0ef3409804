"""Count the habits that make English hard to read: ``python -m tests.support.prose [FOLDER]``.

It counts in docstrings and READMEs, and lists each finding with its place.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

HABITS = re.compile(
    r"""
    \bof\s+each\b | \bthose\s+(?:of|who|that|which|on|in|with|whose)\b | \bthat\s+of\b
    | \bso\s+many\b | \banew\b | \bwhoever\b | \bwhatever\b | \bnobody\b | \banybody\b
    | \bsomebody\b | \bshall\b | \bfor\s+want\s+of\b | \blately\b(?!`) | \bwhere\s+there\s+is\b
    | \bwhere\s+none\b | \bwhere\s+(?:they|it)\s+(?:is|are|has|have)\b | \bas\s+of\s+a\b
    | \bno\s+more\s+than\s+that\b | \bof\s+which\b | \bbeside\s+(?:it|the|them)\b | \bsitting\b
    | \bdeeds?\b | \bat\s+a\s+time\b | \bsees?\s+to\s+it\b | \bmeant\s+for\b | \bcame\s+of\b
    | \A(?:What|How|Whether|Whose|Who|Where|Which|That|Those|Since|Anything|All\ that)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Noun clauses as subjects, pronouns for absent nouns, and words that plain English can spare."""

WORD = re.compile(r"[A-Za-z][\w'-]*")
MARKUP = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Text:
    """One docstring, or the prose of one README."""

    place: str
    words: int
    habits: tuple[str, ...]


def text_of(place: str, written: str) -> Text:
    prose = MARKUP.sub(" X ", written)
    habits = tuple(" ".join(found[0].split()) for found in HABITS.finditer(prose.strip()))
    return Text(place, len(WORD.findall(prose)), habits)


def docstrings(folder: Path) -> Iterator[Text]:
    """Every docstring of the Python files below a folder, attribute docstrings included."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                value = node.value.value
                if isinstance(value, str):
                    yield text_of(f"{path.relative_to(ROOT)}:{node.lineno}", value)


def readmes(folder: Path = ROOT) -> list[Path]:
    """The project's READMEs, the top one first."""
    below = [*sorted((folder / "recommender").rglob("README.md")), folder / "tests" / "README.md"]
    return [folder / "README.md", *(path for path in below if path.exists())]


def per_10_000(texts: list[Text]) -> float:
    """The number of habits in 10,000 words."""
    words = sum(text.words for text in texts)
    return 10_000 * sum(len(text.habits) for text in texts) / max(1, words)


def sentences(written: str) -> list[int]:
    """The lengths, in words, of the sentences of a README's running text and lists."""
    prose = MARKUP.sub(lambda code: "" if code[0].startswith("```") else "X", written)
    lines = [line for line in prose.splitlines() if not re.match(r"\s*(#|\||!\[|<)", line)]
    items = re.split(r"\n\s*\n|\n\s*[-*] |\n\s*\d+\. ", "\n".join(lines))
    parts = [part for item in items for part in re.split(r"(?<=[.!?:])\s+", item)]
    return [count for part in parts if (count := len(WORD.findall(part))) > 1]


def main() -> None:
    """Print each finding below a folder, and the rates."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "recommender").resolve()
    found = list(docstrings(folder))
    for text in found:
        if text.habits:
            print(f"{text.place}: {', '.join(text.habits)}")  # noqa: T201 - it is a command
    print(f"docstrings: {per_10_000(found):.1f} in 10,000 words")  # noqa: T201
    for path in readmes():
        if path.is_relative_to(folder) or path.parent == ROOT:
            prose, lengths = text_of(path.name, path.read_text()), sentences(path.read_text())
            mean = sum(lengths) / max(1, len(lengths))
            print(  # noqa: T201
                f"{path.relative_to(ROOT)}: {per_10_000([prose]):.1f} in 10,000 words,"
                f" {mean:.1f} words a sentence: {', '.join(prose.habits)}"
            )


if __name__ == "__main__":
    main()
