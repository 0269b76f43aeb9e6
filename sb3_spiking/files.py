"""Files and folders that are there as a whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """
    Gives an empty folder to write to, which takes the place of another one when everything is written; if it is not, the one
    that was there stays.

    :param folder: that may be there
    """
    folder = folder.resolve()  # a link stays one
    draft, old = (folder.with_name(f".{folder.name}.{name}") for name in ("draft", "old"))
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        try:
            draft.rename(folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """
    Gives a name to write a file under, which takes the place of ``path`` when it is written; if it is not, nothing of it
    stays.

    :param path: of a file that may be there
    """
    draft = path.with_name(f".{path.name}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file at once: whoever reads it sees the one before or the new one, whole."""
    with draft_of(path) as draft, draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    # The name is written when the folder is. Windows and some network mounts cannot do that: the file is replaced all the same
    with contextlib.suppress(OSError):
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
