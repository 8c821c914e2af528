import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partonomy.datasets.plain_pickle import load_plain_pickle


class Malicious:
    """Pickles as a call of `open` that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_a_pickle_may_not_call_anything(tmp_path: Path) -> None:
    victim = tmp_path / "written_by_the_pickle"
    for protocol in (0, 2, 4):
        path = tmp_path / f"{protocol}.p"
        path.write_bytes(pickle.dumps([{"sentences": Malicious(victim)}], protocol=protocol))
        with pytest.raises(ValueError, match=rf"{protocol}\.p: .*wants to call (io|_io|__builtin__|builtins)\.open"):
            load_plain_pickle(path)
    assert not victim.exists()


def test_python_2_strings_and_numpy_numbers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.p"
    # Protocol 2 as Python 2 wrote it: U = byte string ("caf\xe9"), X = unicode, L-> long of 3 bytes, in one list.
    path.write_bytes(
        b"\x80\x02](U\x04caf\xe9X\x02\x00\x00\x00hiK\x07\x8a\x03\x15\xcd\x5bG\x3f\xf8\x00\x00\x00\x00\x00\x00e."
    )
    assert load_plain_pickle(path) == ["café", "hi", 7, 0x5BCD15, 1.5]
    path.write_bytes(pickle.dumps([np.int64(-3), np.float64(0.25), np.uint8(9), np.bool_(True), {1, 2}], protocol=4))
    assert load_plain_pickle(path) == [-3, 0.25, 9, True, {1, 2}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable pickle"),
        (b"\x80\x02](", "not a readable pickle"),
        (b"not a pickle at all", "not a readable pickle"),
        (pickle.dumps(np.arange(3), protocol=4), "_reconstruct|_frombuffer"),
        (pickle.dumps(np.datetime64(1, "s"), protocol=4), "kind 'M8' is not a plain number"),
    ],
)
def test_damaged_and_other_pickles_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.p"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_plain_pickle(path)
    assert "bad.p" in str(caught.value)
