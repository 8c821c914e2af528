"""A scripted model and small tasks with one answer per item."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from partonomy.benchmarks import gqa
from partonomy.benchmarks.mmr import MultiTargetTask
from partonomy.benchmarks.segmentation import SegmentationItem, SegmentationMode, SegmentationOptions, SegmentationTask
from partonomy.benchmarks.vqa import VqaItem, VqaOptions, VqaProtocol, VqaTask
from partonomy.harness.ranks import Rank
from partonomy.harness.run import Job, run_benchmark
from partonomy.harness.run_folder import RunConfig
from partonomy.harness.summary import Summary
from partonomy.masks import encode_mask
from partonomy.models.contract import ChoiceScore, Generation, GroundedModel, Turn
from partonomy.models.registry import ModelSettings
from partonomy.structures import CharSpan
from tests.partonomy.benchmarks.vqa_world import draw

SIZE = (24, 18)  # width, height


class ScriptedModel:
    """Answers by the prompt; segments the left half; counts how often it is asked."""

    def __init__(self, answer: Callable[[str], str] = lambda prompt: "cat", num_tagged: int = 1) -> None:
        self.name, self.dtype, self.device = "scripted", "float32", "cpu"
        self.answer, self.num_tagged = answer, num_tagged
        self.prompts: list[str] = []
        self.forced: list[str] = []

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        raise NotImplementedError

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        self.prompts.append(turns[-1].text)
        return self.answer(turns[-1].text)

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        self.prompts.append(turns[-1].text)
        self.forced += [answer[span.start : span.end] for span in spans]
        return np.stack([left_half(image)] * len(spans))

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        text = self.reply(image, turns)
        masks = (
            np.stack([left_half(image)] * self.num_tagged) if self.num_tagged else np.zeros((0, *image.shape[:2]), bool)
        )
        return Generation(text, (CharSpan(0, 1),) * self.num_tagged, masks, (1.0,) * self.num_tagged)


def left_half(image: np.ndarray) -> np.ndarray:
    mask = np.zeros(image.shape[:2], dtype=bool)
    mask[:, : image.shape[1] // 2] = True
    return mask


def gqa_task(folder: Path, num_images: int = 3) -> VqaTask:
    """Two questions per image: the first's answer is "cat", the second's "dog"."""
    items = []
    for number in range(num_images):
        path = folder / "images" / f"{number}.png"
        draw(path, number, SIZE)
        for answer in ("cat", "dog"):
            items.append(VqaItem(f"{number}-{answer}", str(number), path, f"What is {number}, a {answer}?", (answer,)))
    return VqaTask("gqa", "testdev", VqaProtocol.LLAVA_OFFICIAL, gqa.FUNCTIONS, tuple(items))


def refcoco_task(folder: Path, mode: SegmentationMode) -> SegmentationTask:
    """One image: an expression for its left half and one for its upper half."""
    path = folder / "images" / "0.png"
    draw(path, 0, SIZE)
    width, height = SIZE
    left, upper = np.zeros((height, width), dtype=bool), np.zeros((height, width), dtype=bool)
    left[:, : width // 2], upper[: height // 2] = True, True
    items = tuple(
        SegmentationItem(name, "0", path, height, width, name, False, encode_mask(mask))
        for name, mask in (("left", left), ("upper", upper))
    )
    return SegmentationTask("refcoco", "val", SegmentationOptions(mode), items)


ItemTask = VqaTask | SegmentationTask | MultiTargetTask


def make_config(task: ItemTask, output: Path) -> RunConfig:
    """The configuration of a run of a task that was made in memory."""
    options = VqaOptions(task.vqa_protocol) if isinstance(task, VqaTask) else task.options
    return RunConfig(
        benchmark=task.benchmark,
        split=task.split,
        root="data",
        options=dataclasses.asdict(options),
        protocol=task.protocol,
        protocol_version=task.VERSION,
        content_hash=task.content_hash(),
        model=ModelSettings("plum", checkpoint="saved/plum", device="cpu"),
        output=str(output),
        checkpoint_hash="c0ffee",
    )


def run_task(
    task: ItemTask, config: RunConfig, model: GroundedModel, *, resume: bool = False, rank: Rank | None = None
) -> Summary | None:
    """Put a task that was made in memory to a given model."""
    job = Job(config, lambda config, rank, max_new_tokens: model)
    return run_benchmark(job, task, resume=resume, rank=rank or Rank())
