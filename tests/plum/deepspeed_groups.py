"""DeepSpeed keeps process groups in variables of a module; a second run in one process would find destroyed ones."""

import torch.distributed


def forget_deepspeed_groups() -> None:
    """Let the next DeepSpeed engine of this process make its own groups."""
    from deepspeed.utils import groups

    for name, value in list(vars(groups).items()):
        if isinstance(value, torch.distributed.ProcessGroup):
            setattr(groups, name, None)
