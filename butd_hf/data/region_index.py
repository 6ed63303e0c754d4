# SPDX-License-Identifier: Apache-2.0
"""Where the regions of an image are in a store: an index on disk, so that memory doesn't grow with it."""

import os
import sqlite3
from pathlib import Path

from .region_rows import DuplicateImageError


_TABLE = (
    "CREATE TABLE regions (image_id TEXT, view TEXT, shard INTEGER, place INTEGER, PRIMARY KEY (image_id, view)) "
    "WITHOUT ROWID"
)


class IndexWriter:
    """Writes an index, a SQLite file. The same rows in the same order give the same bytes."""

    def __init__(self, file: Path):
        file.unlink(missing_ok=True)
        self.connection = sqlite3.connect(file, isolation_level=None)
        # the file is rebuilt from the shards after a crash
        for setting in ("page_size = 4096", "journal_mode = OFF", "synchronous = OFF"):
            self.connection.execute(f"PRAGMA {setting}")
        self.connection.execute(_TABLE)
        self.connection.execute("BEGIN")

    def add(self, image_id: str, view: str, shard: int = 0, place: int = 0) -> None:
        """Adds the place of a row. Raises `DuplicateImageError` if there is one of this image and view."""
        row = (image_id, view, shard, place)
        if self.connection.execute("INSERT OR IGNORE INTO regions VALUES (?, ?, ?, ?)", row).rowcount == 0:
            raise DuplicateImageError(f"Image id {image_id!r} occurs more than once: regions are stored by image id.")

    def close(self) -> None:
        """Completes the file."""
        if self.connection.in_transaction:
            self.connection.execute("COMMIT")
        self.connection.close()


class RegionIndex:
    """Reads an index. A forked process opens it for itself: SQLite connections must not cross a fork."""

    def __init__(self, file: Path):
        self.file = file
        self.connection: sqlite3.Connection | None = None
        self.process = 0

    def place_of(self, image_id: str, view: str) -> tuple[int, int] | None:
        """Shard, and row in it, of an image's view; None if there is none."""
        if self.connection is None or self.process != os.getpid():
            uri = f"{self.file.resolve().as_uri()}?mode=ro&immutable=1"
            self.connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            self.process = os.getpid()
        query = "SELECT shard, place FROM regions WHERE image_id = ? AND view = ?"
        return self.connection.execute(query, (image_id, view)).fetchone()

    def __getstate__(self) -> dict:
        return {"file": self.file, "connection": None, "process": 0}
