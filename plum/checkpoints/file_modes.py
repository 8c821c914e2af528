"""The mode of files that safetensors writes: it makes them readable for their owner alone, whatever the umask says."""

import os
from pathlib import Path


def give_usual_mode(path: Path) -> None:
    """Let a file be read by those whom the umask lets read every other new file (a shared model folder, say)."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
