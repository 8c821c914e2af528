"""Which errors tell of the machine, and which of a model or of one file."""

import errno
import os
from pathlib import Path

import cv2
import pytest
import torch

from partonomy.machine_faults import (
    InputFiles,
    MachineFault,
    end_run_on_machine_fault,
    is_machine_fault,
    is_out_of_memory,
)


def numbered(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class AcceleratorError(RuntimeError):
    """As torch has it, which wraps every error of a device."""


AcceleratorError.__module__ = "torch"

OPENCV = cv2.error("Insufficient memory")
OPENCV.code = cv2.Error.StsNoMem

OF_MACHINE = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend\nout of memory"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("can't start new thread"),
    AcceleratorError("CUDA error: an illegal memory access was encountered"),
    OPENCV,
    *(
        numbered(number)
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.EROFS, errno.EACCES)
    ),
]


@pytest.mark.parametrize("error", OF_MACHINE, ids=repr)
def test_a_fault_of_the_machine_is_one_wherever_it_happens(error: Exception) -> None:
    assert is_machine_fault(error)
    assert is_machine_fault(error, of_input=True)
    with pytest.raises(MachineFault, match="not of the model.*--resume") as raised:
        end_run_on_machine_fault(error)
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is error


def test_a_lack_of_memory_is_told_from_other_faults() -> None:
    assert [is_out_of_memory(error) for error in OF_MACHINE] == [True] * 4 + [False, True, False, False, True] + [
        False
    ] * 7
    assert is_out_of_memory(numbered(errno.ENOMEM))


class ModelError(RuntimeError):
    """Quotes what a model says."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the reply names no choice"),
        RuntimeError("shapes do not fit"),
        NotImplementedError("no masks, out of memory"),
        ModelError("the robot is out of memory"),
        OSError("image file is truncated (3 bytes not processed)"),
        KeyError("masks"),
    ],
    ids=repr,
)
def test_an_error_of_a_model_or_of_a_damaged_file_is_none(error: Exception) -> None:
    assert not is_machine_fault(error)
    assert not is_machine_fault(error, of_input=True)
    end_run_on_machine_fault(error)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL])
def test_a_missing_file_is_the_fault_of_an_input_and_not_of_our_own_files(number: int) -> None:
    assert not is_machine_fault(numbered(number), of_input=True)
    assert is_machine_fault(numbered(number))


def test_what_an_error_was_raised_from_counts() -> None:
    damaged = ValueError("photo.jpg: the image file is damaged")
    damaged.__cause__ = numbered(errno.EIO)
    assert is_machine_fault(damaged, of_input=True)
    with pytest.raises(MachineFault, match=r"ValueError: photo\.jpg"):
        end_run_on_machine_fault(damaged, of_input=True)
    fault = MachineFault(MemoryError())
    with pytest.raises(MachineFault) as raised:
        end_run_on_machine_fault(fault)
    assert raised.value is fault


def test_errors_that_were_raised_from_each_other_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_machine_fault(first)


def make(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_one_missing_file_is_missing_alone(tmp_path: Path) -> None:
    paths = make(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg")
    paths[0].unlink()
    InputFiles(lambda: paths).end_run_if_folder_is_missing(paths[0])
    paths[2].unlink()  # the only one of its folder, but others are there
    InputFiles(lambda: paths).end_run_if_folder_is_missing(paths[2])
    InputFiles(lambda: paths[:1]).end_run_if_folder_is_missing(paths[0])  # the only one of all


def test_a_folder_without_any_of_its_files_is_away(tmp_path: Path) -> None:
    paths = make(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg")
    for path in paths[:2]:
        path.unlink()
    with pytest.raises(MachineFault, match="a: none of the run's files is there any more"):
        InputFiles(lambda: paths).end_run_if_folder_is_missing(paths[0])
    alone = make(tmp_path, "c/1.jpg", "d/1.jpg")
    for path in alone:
        path.unlink()
    with pytest.raises(MachineFault, match="c: none of the run's files"):
        InputFiles(lambda: alone).end_run_if_folder_is_missing(alone[0])
