"""Lets a test meet missing rights, even if root runs it: root's right to ignore file modes is put away meanwhile."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_VERSION = 0x20080522
_IGNORES_MODES = 0b110
"""CAP_DAC_OVERRIDE (1) and CAP_DAC_READ_SEARCH (2), as bits."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Set(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def file_modes_hold() -> Iterator[None]:
    """Let file modes hold in this thread; the test is skipped if they cannot.

    The right stays permitted, so that it comes back at the end.
    """
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root ignores file modes")
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(_VERSION, 0), (_Set * 2)()
    if libc.capget(ctypes.byref(header), sets) != 0:
        pytest.skip("root ignores file modes, and its rights cannot be read")
    before = sets[0].effective
    sets[0].effective = before & ~_IGNORES_MODES
    if libc.capset(ctypes.byref(header), sets) != 0:
        pytest.skip("root ignores file modes, and its rights cannot be put away")
    try:
        yield
    finally:
        sets[0].effective = before
        assert libc.capset(ctypes.byref(header), sets) == 0
