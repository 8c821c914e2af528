"""Reads pickles of plain values (RefCOCO's `refs(unc).p`) without running the code that a pickle may name."""

import io
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

from partonomy.files import printable

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
"""NumPy's type codes of numbers -> type codes of the struct module."""
ARGUMENT_SIZES = {ord(entry.code): 0 if entry.arg is None else entry.arg.n for entry in pickletools.opcodes}
"""Pickle opcodes -> number of bytes of their argument; negative if it ends at a newline or has a length prefix."""
PAIRS = {ord(entry.code) for entry in pickletools.opcodes if entry.arg is pickletools.stringnl_noescape_pair}
LENGTH_WIDTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
MAX_REASON = 300
PUT, LONG_BINPUT = pickle.PUT[0], pickle.LONG_BINPUT[0]
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
    """Read a pickle of lists, dicts, tuples, sets, strings and numbers.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a pickle, is damaged, or names a class or function that is not allowed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found")
    content = path.read_bytes()
    try:
        _check_claims(content)
        return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except READ_ERRORS as error:
        raise ValueError(
            f"{path}: not a readable pickle of plain values ({printable(str(error)[:MAX_REASON])})"
        ) from error


def _check_claims(content: bytes) -> None:
    """Check that no length and no memo index exceeds the length of the file.

    The unpickler allocates memory for a claimed length or index before it reads on, so a few damaged bytes could
    exhaust the memory.

    Raises:
        UnpicklingError: A length or an index is too large, or an opcode is unknown.
    """
    position, end = 0, len(content)
    while position < end:
        code = content[position]
        if code not in ARGUMENT_SIZES:
            raise pickle.UnpicklingError(f"there is no operation {code}")
        size = ARGUMENT_SIZES[code]
        position += 1
        start = position
        if size == pickletools.UP_TO_NEWLINE:
            for _ in range(2 if code in PAIRS else 1):
                position = content.find(b"\n", position) + 1
                if not position:
                    raise pickle.UnpicklingError("it ends within a line")
        elif size < 0:
            width = LENGTH_WIDTHS[size]
            position += width + int.from_bytes(content[position : position + width], "little")
        else:
            position += size
        if position > end:
            raise pickle.UnpicklingError("it claims more bytes than it has")
        if code == LONG_BINPUT and int.from_bytes(content[start:position], "little") > end:
            raise pickle.UnpicklingError("it claims more values than it has bytes")
        if code == PUT and int(content[start:position]) > end:
            raise pickle.UnpicklingError("it claims more values than it has bytes")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed class or function; the base class calls this for every name in the pickle."""
        if module in MODULES_OF_BUILTINS and name in CONTAINERS | NUMBERS:
            return (CONTAINERS | NUMBERS)[name]
        if (module, name) == ("numpy", "dtype"):
            return _NumberKind
        if module in MODULES_OF_NUMPY_SCALARS and name == "scalar":
            return _read_number
        raise pickle.UnpicklingError(
            f"it wants to call {module}.{name}, which no data file needs; do not open it with other programs"
        )


class _NumberKind:
    """Replaces a NumPy dtype: keeps its code, and its byte order, which the pickle sets as state."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        if code not in STRUCT_CODES:
            raise pickle.UnpicklingError(f"a NumPy value of the kind {code!r} is not a plain number")
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _read_number(kind: _NumberKind, content: str | bytes) -> int | float | bool:
    data = content.encode("latin1") if isinstance(content, str) else content
    value: int | float | bool = struct.unpack(kind.order + STRUCT_CODES[kind.code], data)[0]
    return value
