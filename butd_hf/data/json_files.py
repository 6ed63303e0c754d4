# SPDX-License-Identifier: Apache-2.0
"""Reading annotations from JSON and JSON Lines, with errors that name file, line and field."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .data_errors import DataError


def read_json(file: Path, expected: str) -> Any:
    """The content of a JSON file. A byte order mark is skipped.

    Args:
        file: The file.
        expected: What should be in it, for messages.

    Raises:
        DataError: It is not JSON in UTF-8.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file}, line {error.lineno}: not JSON ({error.msg} at column {error.colno}), expected {expected}."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error.reason} at byte {error.start}), expected {expected}.") from error


def read_json_lines(file: Path) -> Iterator[tuple[str, Any]]:
    """The place (file and line, for messages) and the value of each line that is not blank.

    Only a line feed ends a line: U+2028 and U+0085 are ordinary characters in JSON. A byte order mark is skipped.

    Raises:
        DataError: A line is not JSON in UTF-8.
    """
    with open(file, encoding="utf-8-sig", newline="\n") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                place = f"{file}, line {number}"
                if line.strip():
                    yield place, json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{place}: not JSON ({error.msg}, column {error.colno}): {line[:80]!r}.") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 ({error.reason}).") from error


def field(entry: Any, name: str, kind: type | tuple[type, ...], place: str) -> Any:
    """The value `entry[name]`. Raises `DataError` if it is missing or of another kind, or the entry is no object."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    expected = " or ".join(each.__name__ for each in kinds)
    if not isinstance(entry, dict):
        raise DataError(f"{place}: expected an object with {name!r}, got {entry!r:.80}.")
    if name not in entry:
        raise DataError(f"{place}: no {name!r} ({expected}) among {sorted(entry)}.")
    if not isinstance(entry[name], kinds):
        raise DataError(f"{place}: {name!r} must be {expected}, got {entry[name]!r:.80}.")
    return entry[name]


__all__ = ["field", "read_json", "read_json_lines"]
