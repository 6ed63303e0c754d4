# SPDX-License-Identifier: Apache-2.0
"""Where the regions of an image lie in a store: an index on disk, whose size memory does not feel."""

import os
import sqlite3
from pathlib import Path

from .region_rows import DuplicateImageError


# one table, its key the rows' own order; few pages are in memory at a time, however many there are
_TABLE = (
    "CREATE TABLE regions (image_id TEXT, view TEXT, shard INTEGER, place INTEGER, PRIMARY KEY (image_id, view)) "
    "WITHOUT ROWID"
)


class IndexWriter:
    """
    Writes an index. The same rows in the same order give the same bytes.

    It is a SQLite file: unlike a dictionary it need not be in memory, neither to find a row nor to notice that an
    image comes twice.
    """

    def __init__(self, file: Path):
        file.unlink(missing_ok=True)
        self.connection = sqlite3.connect(file, isolation_level=None)
        # the file is a copy of what the shards say: it need not survive a crash half written
        for setting in ("page_size = 4096", "journal_mode = OFF", "synchronous = OFF"):
            self.connection.execute(f"PRAGMA {setting}")
        self.connection.execute(_TABLE)
        self.connection.execute("BEGIN")

    def add(self, image_id: str, view: str, shard: int = 0, place: int = 0) -> None:
        """Notes where a row is. Raises `DuplicateImageError` if there is one of this image and view."""
        row = (image_id, view, shard, place)
        if self.connection.execute("INSERT OR IGNORE INTO regions VALUES (?, ?, ?, ?)", row).rowcount == 0:
            raise DuplicateImageError(f"Image id {image_id!r} occurs more than once: regions are found by image id.")

    def close(self) -> None:
        """Completes the file."""
        self.connection.execute("COMMIT")
        self.connection.close()

    def abandon(self) -> None:
        """Gives up; the file is of no use."""
        self.connection.close()


class RegionIndex:
    """Reads an index. Processes that were forked from one that reads may read it, too."""

    def __init__(self, file: Path):
        self.file = file
        self.connection: sqlite3.Connection | None = None
        self.process = 0

    def find(self, image_id: str, view: str) -> tuple[int, int] | None:
        """Shard, and row in it, of an image's view; None if there is none."""
        if self.connection is None or self.process != os.getpid():  # connections must not cross a fork
            address = f"{self.file.resolve().as_uri()}?mode=ro&immutable=1"
            self.connection = sqlite3.connect(address, uri=True, check_same_thread=False)
            self.process = os.getpid()
        query = "SELECT shard, place FROM regions WHERE image_id = ? AND view = ?"
        return self.connection.execute(query, (image_id, view)).fetchone()

    def __getstate__(self) -> dict:
        return {"file": self.file, "connection": None, "process": 0}
