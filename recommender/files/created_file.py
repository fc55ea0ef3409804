"""Files that get their name when they are complete."""

from __future__ import annotations

import gzip
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from recommender.errors import NotFound, NotPermitted, StorageFailure
from recommender.formats import scalars


@contextmanager
def created_file(file: str) -> Iterator[TextIO]:
    """Open a file for writing, which gets its name when it is complete; only its owner may read it.

    Raises:
        NotFound: the file's folder does not exist.
        NotPermitted: the file may not be written.
        StorageFailure: the disk is full or failing.
    """
    if file == "-":
        if sys.stdout is None:
            raise NotPermitted("there is no standard output")
        with _encoded(sys.stdout.buffer, compressed=False) as text:
            yield text
        return
    path, is_compressed = Path(os.path.realpath(file)), file.endswith(".gz")
    if path.is_dir():
        raise NotPermitted(f"the file {scalars.shown(file)} is a folder")
    if path.exists() and not path.is_file():
        with _device(path) as binary, _encoded(binary, compressed=is_compressed) as text:
            yield text
        return
    with (
        named_when_whole(file) as unfinished,
        unfinished.open("wb") as binary,
        _encoded(binary, is_compressed) as text,
    ):
        yield text


@contextmanager
def named_when_whole(file: str) -> Iterator[Path]:
    """Provide an empty file that gets its name when it is complete; only its owner may read it.

    Raises:
        NotFound: the file's folder does not exist.
        NotPermitted: the file may not be written.
        StorageFailure: the disk is full or failing.
    """
    path, unfinished = Path(os.path.realpath(file)), None
    try:
        descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
        yield Path(unfinished)
        Path(unfinished).replace(path)
    except FileNotFoundError:
        raise NotFound(f"there is no folder {scalars.shown(str(path.parent))}") from None
    except (PermissionError, IsADirectoryError, NotADirectoryError):
        raise NotPermitted(f"the file {scalars.shown(file)} may not be written") from None
    except OSError as error:
        raise StorageFailure(f"the file {scalars.shown(file)}: {error.strerror}") from error
    finally:
        if unfinished:
            Path(unfinished).unlink(missing_ok=True)


def _device(path: Path) -> BinaryIO:
    """Open a file that is not regular, such as a pipe, which is written in place."""
    try:
        return path.open("wb")
    except OSError as error:
        raise NotPermitted(
            f"the file {scalars.shown(str(path))} may not be written: {error.strerror}"
        ) from None


@contextmanager
def _encoded(binary: BinaryIO, compressed: bool) -> Iterator[TextIO]:  # noqa: FBT001
    """Open a text stream over a binary stream, with gzip if `compressed`."""
    # The gzip header has no name and no time, so that equal rows give equal bytes.
    plain: Any = gzip.GzipFile("", "wb", 6, binary, mtime=0) if compressed else binary
    text = io.TextIOWrapper(plain, encoding="utf-8", newline="")
    try:
        yield text
        text.flush()
    finally:
        text.detach()
        if compressed:
            cast("gzip.GzipFile", plain).close()
