# SPDX-License-Identifier: Apache-2.0
"""From what the user names to photographs: files, folders, patterns and URLs."""

import glob
from collections.abc import Iterable
from pathlib import Path


# what is taken from a folder; a file named by itself may be anything that Pillow reads
SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class NoPhotosError(ValueError):
    """Something that the user named holds no photograph. The message says what and why."""


def find_photos(names: Iterable[str]) -> list[str]:
    """
    Finds photographs.

    Args:
        names: Files; folders, for the pictures directly in them; patterns like `album/**/*.jpg`; http(s) URLs and data
            URIs.

    Returns:
        Paths and URLs, in the order of the names, each folder and pattern sorted.

    Raises:
        NoPhotosError: If there is no such file, no picture in a folder or nothing that fits a pattern.
    """
    photos: list[str] = []
    for name in names:
        path = Path(name)
        if name.startswith(("http://", "https://", "data:")):
            photos.append(name)
        elif path.is_dir():
            found = pictures([path / entry.name for entry in path.iterdir()])
            if not found:
                raise NoPhotosError(
                    f"no picture in folder {name!r}: expected files ending in {', '.join(sorted(SUFFIXES))}."
                )
            photos.extend(found)
        elif path.exists():
            photos.append(name)
        elif glob.has_magic(name):  # patterns that no shell expanded
            found = pictures(map(Path, glob.glob(name, recursive=True)))
            if not found:
                raise NoPhotosError(f"no picture fits the pattern {name!r}.")
            photos.extend(found)
        else:
            raise NoPhotosError(f"no such file or folder: {name!r}.")
    return photos


def pictures(paths: Iterable[Path]) -> list[str]:
    """The files among the paths that have the suffix of a picture, sorted."""
    return sorted(str(path) for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())
