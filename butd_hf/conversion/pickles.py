# SPDX-License-Identifier: Apache-2.0
"""Pickles of other projects, read without running anything that they ask for."""

import argparse
import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np


class PickleError(ValueError):
    """A pickle that asks for more than plain data, or that cannot be read."""


class Settings(argparse.Namespace):
    """What a pickled namespace becomes: a class of our own, since pickles can write to classes that they name."""


# all that a pickle may name: containers, numbers, text, arrays, and the namespace of argparse, which only holds values
_ALLOWED: dict[tuple[str, str], Any] = {
    ("argparse", "Namespace"): Settings,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
}
for _module in ("builtins", "__builtin__"):  # today's name, and that of Python 2
    for _type in (bytes, bytearray, complex, dict, float, frozenset, int, list, object, set, str, tuple):
        _ALLOWED[_module, _type.__name__] = _type
    _ALLOWED[_module, "unicode"] = str
    _ALLOWED[_module, "long"] = int

# how numpy rebuilds arrays and scalars from bytes, a type and a shape
_ARRAY_BUILDERS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
}
UNREADABLE = (pickle.UnpicklingError, EOFError, AttributeError, LookupError, MemoryError, TypeError, ValueError)


class PlainUnpickler(pickle.Unpickler):
    """Knows the names of plain data and refuses every other: a pickle can otherwise call whatever is installed."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        # how pickles of any protocol rebuild arrays, byte strings and namespaces; each takes only what is allowed here
        if (module, name) in {("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor")}:
            return _rebuilt_object
        if (module, name) == ("_codecs", "encode"):
            return _encoded_text
        if (module.replace("._core.", ".core."), name) in _ARRAY_BUILDERS:
            return super().find_class(module, name)
        raise PickleError(f"asks for {module}.{name}; only plain data, numpy arrays and argparse.Namespace are read")


def read_pickle(file: Path) -> Any:
    """The plain data in a pickle: dicts, lists, sets, numbers, text, numpy arrays and `argparse.Namespace`.

    Byte strings of Python 2 become text.

    Raises:
        PickleError: The file is no pickle, is cut off, or names anything else, which is then not run.
    """
    try:
        with open(file, "rb") as stream:
            return PlainUnpickler(stream, encoding="latin1").load()
    except PickleError as refusal:
        raise PickleError(f"{file}: the pickle {refusal}.") from refusal
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as error:
        raise PickleError(f"{file}: cannot be read as a pickle ({type(error).__name__}: {error}).") from error


def _rebuilt_object(kind: type, base: type, state: Any) -> Any:
    if kind is Settings and base is object:
        return Settings()
    raise PickleError(f"rebuilds a {getattr(kind, '__name__', kind)}; only argparse.Namespace is rebuilt")


def _encoded_text(text: str, encoding: str = "utf-8") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise PickleError(f"encodes {type(text).__name__} as {encoding!r}; only text as 'latin1' is")
    return text.encode(encoding)
