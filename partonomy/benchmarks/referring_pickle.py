"""RefCOCO's `refs(...).p` without running anything from it: plain values only, everything else is refused by name.

The published files are Python 2 pickles (protocol 2) of lists, dicts, texts and numbers. A pickle can name any function
to be called while it is read, so only the names below are let through; NumPy numbers are rebuilt here, not by NumPy.
"""

import pickle
import struct
from pathlib import Path
from typing import Any

MODULES_OF_BUILTINS = ("__builtin__", "builtins")
CONTAINERS = {"list": list, "dict": dict, "tuple": tuple, "set": set, "frozenset": frozenset}
NUMBERS = {"int": int, "long": int, "float": float, "bool": bool}
MODULES_OF_NUMPY_SCALARS = ("numpy.core.multiarray", "numpy._core.multiarray")
STRUCT_CODES = {
    "b1": "?",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
    "f4": "f",
    "f8": "d",
}
"""NumPy's codes of numbers -> the struct module's."""
READ_ERRORS = (
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ImportError,
    OverflowError,
    RecursionError,
)


def load_plain_pickle(path: Path) -> Any:
    """Read a pickle of lists, dicts, tuples, sets, texts and numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no pickle, is damaged, or wants a class or function that is not allowed; names both.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found")
    with path.open("rb") as file:
        try:
            return _PlainUnpickler(file, encoding="latin1").load()
        except READ_ERRORS as error:
            raise ValueError(f"{path}: not a readable pickle of plain values ({error})") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Called for every class or function that the pickle names."""
        if module in MODULES_OF_BUILTINS and name in CONTAINERS | NUMBERS:
            return (CONTAINERS | NUMBERS)[name]
        if (module, name) == ("numpy", "dtype"):
            return _NumberKind
        if module in MODULES_OF_NUMPY_SCALARS and name == "scalar":
            return _read_number
        raise pickle.UnpicklingError(
            f"it wants to call {module}.{name}, which data files have no use for; do not open this file elsewhere"
        )


class _NumberKind:
    """Stands for a NumPy dtype: its code, and the byte order that follows as state."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        if code not in STRUCT_CODES:
            raise pickle.UnpicklingError(f"a NumPy value of the kind {code!r} is no plain number")
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _read_number(kind: _NumberKind, content: str | bytes) -> int | float | bool:
    data = content.encode("latin1") if isinstance(content, str) else content
    value: int | float | bool = struct.unpack(kind.order + STRUCT_CODES[kind.code], data)[0]
    return value
