"""What an evaluation makes the model do: tokens, encodes, masks, and the seconds of each component."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from plum.models.grounded_lmm import GroundedLMM
from scripts.bench.stage_clock import OTHER, StageClock


@dataclass
class Counters:
    """Counts of what runs under `counting`; nothing is counted, and the device not waited for, elsewhere."""

    clock: StageClock
    llm_tokens: int = 0
    clip_images: int = 0
    sam_encodes: int = 0
    decoder_calls: int = 0
    masks: int = 0
    is_counting: bool = False
    _names: tuple[str, ...] = field(default=("llm_tokens", "clip_images", "sam_encodes", "decoder_calls", "masks"))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Begin anew, and count until the end of the block."""
        self.clock.reset()
        for name in self._names:
            setattr(self, name, 0)
        self.is_counting = True
        try:
            yield
        finally:
            self.is_counting = False

    def per_question(self, num_questions: int) -> dict[str, float]:
        """Counts and seconds of every component, divided by the questions."""
        self.clock.enter(OTHER)
        counts = {name: round(getattr(self, name) / num_questions, 3) for name in self._names}
        seconds = {f"seconds_{name}": round(value / num_questions, 5) for name, value in self.clock.seconds.items()}
        return counts | dict(sorted(seconds.items()))


def watch(model: GroundedLMM) -> Counters:
    """Let the model's components be counted and timed, by replacing its methods on this instance."""
    counters = Counters(StageClock(next(model.parameters()).device))

    def add(name: str, value: int) -> None:
        setattr(counters, name, getattr(counters, name) + value)

    def watched(
        method: Callable[..., torch.Tensor], stage: str, count: Callable[[tuple[torch.Tensor, ...], torch.Tensor], None]
    ) -> Callable[..., torch.Tensor]:
        def run(*arguments: torch.Tensor) -> torch.Tensor:
            if not counters.is_counting:
                return method(*arguments)
            before = counters.clock.enter(stage)
            result = method(*arguments)
            counters.clock.enter(before)
            count(arguments, result)
            return result

        return run

    components = (
        (model.llava, "hidden_states", "llm", lambda given, _: add("llm_tokens", given[0].numel())),
        (model.llava, "run_layers", "llm", lambda given, _: add("llm_tokens", len(given[0]))),
        (model.llava, "token_logits", "lm_head", lambda given, _: None),
        (model.llava, "encode_images", "clip", lambda given, _: add("clip_images", len(given[0]))),
        (model.sam, "encode_images", "sam", lambda given, _: add("sam_encodes", len(given[0]))),
        (model, "decode_masks", "decoder", lambda _, masks: add("masks", len(masks))),
        (model.sam, "decode_masks", "decoder", lambda given, _: add("decoder_calls", 1)),
    )
    for owner, method, stage, count in components:
        setattr(owner, method, watched(getattr(owner, method), stage, count))
    return counters
