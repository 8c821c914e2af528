"""Time of a training step by stage, without changing what is computed.

Every moment belongs to exactly one stage, so the stages add up to the step. Stages of the forward pass are methods of
the model; stages of the backward pass begin where the gradient of a forward stage's output is ready (the graph is
walked in the order opposite to its making). On a GPU each change of stage waits for the device.
"""

import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import record_function

from plum.models.grounded_lmm import GroundedLMM
from plum.structures import GroundedOutput
from scripts.bench.device_clock import seconds_now

OTHER, ENGINE = "other", "engine: clip, update, communication"
LAST_ALWAYS = "backward: language model"
"""Stage of the backward pass that every batch has; the towers' comes after it where they are trained."""


class StageClock:
    """Adds up the seconds of each stage."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._stage = OTHER
        self._since = time.perf_counter()

    def begin_engine(self) -> None:
        """Begin what an engine does after the backward walk."""
        self.enter(ENGINE)

    def enter(self, stage: str) -> str:
        """Begin a stage and return the one before."""
        now = seconds_now(self.device)
        self.seconds[self._stage] += now - self._since
        before, self._stage, self._since = self._stage, stage, now
        return before

    def reset(self) -> None:
        """Forget what was measured so far (warm-up)."""
        self.enter(OTHER)
        self.seconds.clear()


def watch(model: GroundedLMM, clock: StageClock) -> None:
    """Time the model's stages from now on, by replacing its methods on this instance.

    The teacher is told from the student by running without gradients.
    """

    def timed(method: Callable[..., object], name: str) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            is_teacher = name == "language model" and not torch.is_grad_enabled()
            stage = f"forward: {'teacher' if is_teacher else name}"
            before = clock.enter(stage)
            with record_function(stage):
                result = method(*arguments)
            clock.enter(before)
            return result

        return run

    stages = (
        (model, "encode_images", "towers"),
        (model.llava, "shared_hidden_states", "language model"),
        (model.llava, "token_logits", "tagger and lm_head"),
        (model, "tag", "tagger and lm_head"),
        (model, "decode_masks", "masks"),
    )
    for owner, method, name in stages:
        setattr(owner, method, timed(getattr(owner, method), name))
    model.register_forward_hook(lambda module, arguments, output: _after_forward(output, clock))


def _after_forward(output: GroundedOutput, clock: StageClock) -> None:
    """What follows the model's forward are the losses; each output's gradient begins a stage of the backward pass."""
    clock.enter("forward: losses")
    boundaries = (
        (output.mask_logits, "masks"),
        (output.tag_logits, "tagger and lm_head"),
        (output.token_logits, "tagger and lm_head"),
        (output.hidden_states, "language model"),
        (output.images.embeddings.main, "towers"),
        (output.images.tokens.values, "towers"),
    )
    for tensor, name in boundaries:
        if tensor is not None and tensor.requires_grad:
            tensor.register_hook(_begin(clock, f"backward: {name}"))


def _begin(clock: StageClock, stage: str) -> Callable[[Tensor], None]:
    def hook(gradient: Tensor) -> None:
        clock.enter(stage)
        if stage == LAST_ALWAYS:  # what an engine does after the walk is its own
            torch.autograd.Variable._execution_engine.queue_callback(clock.begin_engine)

    return hook
