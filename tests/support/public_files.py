"""Small files in the form of public data sets, for the commands that a README shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

RATINGS = """\
userId,movieId,rating,timestamp
1,1,4.0,964982703
1,3,4.0,964981247
2,1,2.5,1445714835
2,3,5.0,1445714885
"""

MOVIES = """\
movieId,title,genres
1,Toy Story (1995),Adventure|Animation|Children|Comedy|Fantasy
3,"American President, The (1995)",Comedy|Drama|Romance
"""

CLICKS = """\
timestamp,visitorid,event,itemid,transactionid
1433221332117,257597,view,355908,
1433224214164,992329,view,248676,
1433221999827,111016,addtocart,318965,
1433222276276,599528,transaction,356475,4000
"""

BOOK_COLUMNS = (
    "book_id", "goodreads_book_id", "best_book_id", "work_id", "books_count", "isbn", "isbn13",
    "authors", "original_publication_year", "original_title", "title", "language_code",
    "average_rating", "ratings_count", "work_ratings_count", "work_text_reviews_count",
    "ratings_1", "ratings_2", "ratings_3", "ratings_4", "ratings_5", "image_url", "small_image_url",
)  # fmt: skip

BOOKS = [
    ("2", "J.K. Rowling, Mary GrandPré", "1997.0", "Harry Potter and the Sorcerer's Stone", "eng"),
    ("4", "Harper Lee", "1960.0", "To Kill a Mockingbird", "eng"),
    ("6", "John Green", "2012.0", "The Fault in Our Stars", "eng"),
    ("341", "Homer, Robert Fagles, Bernard Knox", "-750.0", "The Iliad", "eng"),
]  # fmt: skip


def books() -> str:
    """Return a table of books with all columns of the source, most of them 0."""
    named = ("book_id", "authors", "original_publication_year", "title", "language_code")
    rows = [dict.fromkeys(BOOK_COLUMNS, "0") | dict(zip(named, b, strict=True)) for b in BOOKS]
    return _csv([BOOK_COLUMNS, *(row.values() for row in rows)])


def _csv(rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_public_files(folder: Path) -> None:
    """Write one folder of files for each source."""
    files = {
        "movielens/ratings.csv": RATINGS, "movielens/movies.csv": MOVIES,
        "retailrocket/events.csv": CLICKS, "goodbooks/books.csv": books(),
    }  # fmt: skip
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
