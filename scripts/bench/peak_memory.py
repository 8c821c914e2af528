"""Peak memory of a stretch of a benchmark: of a GPU's allocator, of the whole process on a CPU."""

from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What Linux takes in `clear_refs` to forget the largest resident size so far."""


def reset_peak(device: torch.device) -> None:
    """Begin a stretch."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        CLEAR.write_text(RESET_PEAK)


def peak_bytes(device: torch.device) -> int:
    """Return the most since the last `reset_peak`; on a CPU with all the process holds, imports included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kilobytes = next(line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(kilobytes)
