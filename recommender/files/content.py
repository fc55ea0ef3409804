"""Recognise files that are neither CSV nor JSON, and say what to do with them."""

from __future__ import annotations

SNIFFED_BYTES = 512
"""The number of bytes that are enough to recognise a file."""

_UNPACK = "unpack it, and import the files in it one by one"
_AS_CSV = "save it as CSV in UTF-8, and import that"

_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", f"{_UNPACK}, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", _AS_CSV),
    (b"%PDF", "a PDF", "export the data as CSV where the PDF was made"),
    (b"PAR1\x15", "a Parquet file", "write it as CSV, such as with pandas' to_csv"),
    (b"SQLite format 3", "an SQLite database", "export each table as CSV, and import that"),
    (b"BZh9", "compressed by bzip2", "expand it, or compress it by gzip"),
    (b"\xfd7zXZ", "compressed by xz", "expand it, or compress it by gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "expand it, or compress it by gzip"),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"Rar!", "a rar archive", _UNPACK),
    (b"\x1f\x8b", "compressed by gzip twice", "expand it once"),
    (b"\xff\xfe", "in UTF-16", _AS_CSV),
    (b"\xfe\xff", "in UTF-16", _AS_CSV),
)

_TAR = slice(257, 262)


def wrong_content(head: bytes) -> str | None:
    """Return one sentence for a file that cannot be imported; None if it may be CSV or JSON.

    Args:
        head: the first bytes of the file, expanded if it is gzip.
    """
    for signature, content, remedy in _SIGNATURES:
        if head.startswith(signature):
            return _sentence(content, remedy)
    if head[_TAR] == b"ustar":
        return _sentence("a tar archive", _UNPACK)
    if head[1:2] == b"\0" or head[:1] == b"\0":
        return _sentence("in UTF-16 or UTF-32, or no text", _AS_CSV)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return _sentence("an HTML or XML page", "download the data itself, as CSV or JSON")
    return None


def _sentence(content: str, remedy: str) -> str:
    return f"the file is {content}, not CSV or JSON: {remedy}"
