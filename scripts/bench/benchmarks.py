"""Times benchmarks beside Partonomy's own: items asked together, as a run asks them, against item by item.

python scripts/bench/benchmarks.py --size tiny|small|7b|13b --images N [--parts referring,vqa] [--repeats 5]

Both ways go through the same harness (partonomy/harness/asking.py) with the same model: `together` is BatchedPlum, what
`python -m partonomy run` uses, `alone` PlumModel, which the harness asks request by request. The images are drawn ones.
- `referring`: RefCOCO's shape, three objects of an image with three sentences each, one forced mask a sentence;
- `vqa`: three short questions an image, each answered in at most `--answer_tokens` tokens. Random weights hardly ever
  end an answer: all are equally long here. A trained model's answer to such questions has two to four tokens.

The towers read an image once either way, so that the more items an image has the less they matter. They are left out:
timed runs take what CLIP and SAM made of an image from memory, and `seconds_towers_per_image` stands beside.

The last line is one JSON object. Of each part: seconds per item, items per second and CPU seconds per item of both ways
(medians; the ways take turns), `ratio` and `cpu_ratio` of alone to together, the latter hardly depending on what else
runs, where the seconds of both go (a pass of its own), and the deviations, the towers computing: `differing_texts`,
mask pixels that differ, and those of them whose logit, asked alone, is not within 1e-4 of zero.
"""

import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import torch
from jsonargparse import CLI
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from partonomy.benchmarks import gqa
from partonomy.benchmarks.records import AnswerRecord
from partonomy.benchmarks.segmentation import SegmentationItem, SegmentationOptions, SegmentationTask
from partonomy.benchmarks.task import AnyTask, Item
from partonomy.benchmarks.vqa import VqaItem, VqaProtocol, VqaTask
from partonomy.harness.ranks import MAX_IMAGES_PER_BATCH, Batch
from partonomy.masks import decode_mask
from partonomy.structures import Part, Question
from plum.inference.image_store import EncodedImage
from plum.inference.partonomy_adapter import BatchedPlum, PlumModel, resolve_device
from plum.inference.predictor import Predictor
from plum.inputs.bio_labels import TokenSpan
from plum.models.grounded_lmm import GroundedLMM
from plum.models.segmenters.mask_resize import resize_to_original
from plum.structures import ImageEmbeddings, ImageTokens
from scripts.bench.device_clock import seconds_now
from scripts.bench.eval import FULL_SIDE, IMAGE_SIZES, NEAR_ZERO
from scripts.bench.eval_counters import watch
from scripts.bench.eval_world import Dtype, EvaluationWorld, ask_all, build_world, draw_questions
from scripts.bench.sizes import Size

NUM_OBJECTS = 3
SENTENCES = ("the {part}", "{part} of the {thing}", "the {thing}'s {part} in the middle")
QUESTIONS = ("What is this?", "Does the {thing} have a {part}?", "What is next to the {part} of the {thing}?")
MAX_ANSWER_TOKENS = 4
PARTS = ("referring", "vqa")


def main(
    size: Size = "tiny",
    images: int = 4,
    *,
    parts: str = ",".join(PARTS),
    answer_tokens: int = MAX_ANSWER_TOKENS,
    repeats: int = 5,
    device: str = "auto",
    dtype: Dtype = "auto",
    seed: int = 0,
) -> None:
    """Print one JSON line last.

    Args:
        size: of the model.
        images: number of images; up to four are asked together.
        parts: what to measure, comma-separated: referring, vqa.
        answer_tokens: longest answer to a question of vqa.
        repeats: timed runs of each way, in turn.
        device: auto, cpu or cuda.
        dtype: of the weights; auto is float32 on a CPU, bfloat16 on a GPU.
        seed: of the random weights.
    """
    wanted = parts.split(",")
    if unknown := set(wanted) - set(PARTS):
        raise SystemExit(f"unknown parts {sorted(unknown)}; there are {' and '.join(PARTS)}")
    torch.backends.cudnn.allow_tf32 = False  # equality is shown in float32
    with tempfile.TemporaryDirectory(prefix="bench_benchmarks_") as temporary:
        folder = Path(temporary)
        draw_questions(folder, 2 * images, "five", IMAGE_SIZES.get(size, FULL_SIDE))
        world = build_world(size, folder, images, "five", resolve_device(device), seed=seed, dtype=dtype)
        result: dict[str, object] = {
            "size": size,
            "images": images,
            "device": world.predictor.device.type,
            "dtype": str(next(world.predictor.model.parameters()).dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }
        comparison = Comparison(world, answer_tokens, repeats)
        for name in wanted:
            result[name] = comparison.measure(referring_task(world) if name == "referring" else vqa_task(world))
    print(json.dumps(result))


def referring_task(world: EvaluationWorld) -> SegmentationTask:
    """RefCOCO's shape: objects of an image, each with several sentences."""
    items = []
    for image in world.images:
        question, shown = image[0], image_parts(image)
        for number in range(NUM_OBJECTS):
            part = shown[number % len(shown)]
            for sentence, text in enumerate(SENTENCES):
                items.append(
                    SegmentationItem(
                        item_id=f"{question.image_id}_{number}_{sentence}",
                        image_id=str(question.image_id),
                        image_path=question.image_path,
                        height=question.height,
                        width=question.width,
                        text=text.format(part=f"{part.label} {number + 1}", thing=question.object_label),
                        is_sentence=False,
                        mask=part.mask,
                    )
                )
    return SegmentationTask("refcoco", "drawn", SegmentationOptions(), items)


def vqa_task(world: EvaluationWorld) -> VqaTask:
    """GQA's shape: short questions about an image."""
    items = [
        VqaItem(
            item_id=f"{image[0].image_id}_{number}",
            image_id=str(image[0].image_id),
            image_path=image[0].image_path,
            question=text.format(part=image_parts(image)[0].label, thing=image[0].object_label),
            answers=(image[0].object_label,),
        )
        for image in world.images
        for number, text in enumerate(QUESTIONS)
    ]
    return VqaTask("gqa", "drawn", VqaProtocol.LLAVA_OFFICIAL, gqa.FUNCTIONS, items)


def image_parts(image: Sequence[Question]) -> tuple[Part, ...]:
    """The different parts that an image's questions have masks of."""
    return tuple({part.label: part for question in image for part in question.masks}.values())


def batches_of(items: Sequence[Item]) -> tuple[Batch, ...]:
    """All items of four images at a time, as a run of hundreds of images deals them."""
    images: dict[int | str, list[Item]] = {}
    for item in items:
        images.setdefault(item.image_id, []).append(item)
    groups = list(images.values())
    return tuple(
        tuple(item for group in groups[start : start + MAX_IMAGES_PER_BATCH] for item in group)
        for start in range(0, len(groups), MAX_IMAGES_PER_BATCH)
    )


class NotingPredictor(Predictor):
    """Notes the pixels whose mask logit is near zero, call by call, while it is asked to."""

    is_noting: bool = False
    near_zero: list[np.ndarray]

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note the pixels of the masks predicted in the block."""
        self.near_zero, self.is_noting = [], True
        try:
            yield
        finally:
            self.is_noting = False

    def low_mask_logits(
        self, entries: Sequence[EncodedImage], hidden_states: Tensor, spans: Sequence[TokenSpan], image_of: Tensor
    ) -> Tensor:
        """Return the masks' logits in the frame of SAM's padded input."""
        low_logits = super().low_mask_logits(entries, hidden_states, spans, image_of)
        if self.is_noting:
            (entry,) = entries  # the benchmarks that are timed ask about one image
            logits = resize_to_original(low_logits, entry.inputs.frame, self.transform.sam_size)
            self.near_zero.append((logits.abs() < NEAR_ZERO).cpu().numpy())
        return low_logits


class Towers(Enum):
    """What becomes of a call of CLIP or SAM's encoder."""

    COMPUTE = "compute"
    REMEMBER = "compute image by image, keep the result and the seconds"
    RECALL = "the result that was kept"


Features = ImageEmbeddings | ImageTokens
"""What a tower makes of images: SAM an embedding, LLaVA's tower the tokens that its language model reads."""


def concatenate(parts: Sequence[Features]) -> Features:
    """Return the features of all images of `parts`, one after the other."""
    tokens = [part for part in parts if isinstance(part, ImageTokens)]
    if tokens:
        return ImageTokens.concatenate(tokens)
    return ImageEmbeddings.concatenate([part for part in parts if isinstance(part, ImageEmbeddings)])


class KnownTowers:
    """Both towers of a model, whose results can be kept; replaces its methods on this instance.

    Attributes:
        state: What happens in a call.
        seconds: Of all images that were computed to be kept.
    """

    def __init__(self, model: GroundedLMM) -> None:
        self.state = Towers.COMPUTE
        self.seconds = 0.0
        self._kept: dict[tuple[str, bytes], Features] = {}
        self._device = next(model.parameters()).device
        for owner, method in ((model.llava, "encode_images"), (model.sam, "encode_images")):
            setattr(owner, method, self._replace(type(owner).__name__, getattr(owner, method)))

    def _replace(self, name: str, encode: Callable[[Tensor], Features]) -> Callable[[Tensor], Features]:
        def run(pixels: Tensor) -> Features:
            if self.state is Towers.COMPUTE:
                return encode(pixels)
            return concatenate([self._one(name, encode, row) for row in pixels.split(1)])

        return run

    def _one(self, name: str, encode: Callable[[Tensor], Features], pixels: Tensor) -> Features:
        key = (name, hashlib.blake2b(pixels.cpu().numpy().tobytes()).digest())
        if self.state is Towers.REMEMBER:
            start = seconds_now(self._device)
            self._kept[key] = encode(pixels)
            self.seconds += seconds_now(self._device) - start
        return self._kept[key]


@dataclass(frozen=True)
class Timed:
    """Seconds of a run, and those of all its threads on the CPU."""

    wall: float
    cpu: float


class Comparison:
    """Asks tasks both ways.

    Args:
        world: The model and its images.
        answer_tokens: Longest own answer.
        repeats: Timed runs of each way.
    """

    def __init__(self, world: EvaluationWorld, answer_tokens: int, repeats: int) -> None:
        given = world.predictor
        self.predictor = NotingPredictor(given.model, given.tokenizer, given.model.config)
        self.num_images, self.repeats = len(world.images), repeats
        self.ways = {
            "together": BatchedPlum(self.predictor, "together", max_new_tokens=answer_tokens),
            "alone": PlumModel(self.predictor, "alone", max_new_tokens=answer_tokens),
        }
        self.counters = watch(given.model)
        self.towers = KnownTowers(given.model)

    def measure(self, task: AnyTask) -> dict[str, object]:
        """Answer all items both ways; see the file's text for what is returned."""
        deviation = self._compare(task)
        self.towers.state = Towers.RECALL
        timed: dict[str, list[Timed]] = {way: [] for way in self.ways}
        for _ in range(self.repeats):
            for way in self.ways:
                timed[way].append(self._time(way, task))
        components = {}
        for way in self.ways:
            with self.counters.counting():
                self._ask(way, task)
                components[way] = self.counters.per_question(len(task.items))
        self.towers.state = Towers.COMPUTE
        wall = {way: statistics.median(run.wall for run in runs) for way, runs in timed.items()}
        cpu = {way: statistics.median(run.cpu for run in runs) for way, runs in timed.items()}
        count = len(task.items)
        return {
            "items": count,
            "items_per_image": count / self.num_images,
            **{f"seconds_{way}": round(seconds / count, 5) for way, seconds in wall.items()},
            **{f"items_per_second_{way}": round(count / seconds, 2) for way, seconds in wall.items()},
            **{f"cpu_seconds_{way}": round(seconds / count, 5) for way, seconds in cpu.items()},
            "ratio": round(wall["alone"] / wall["together"], 2),
            "cpu_ratio": round(cpu["alone"] / cpu["together"], 2),
            "seconds_towers_per_image": round(self.towers.seconds / self.num_images, 5),
            "deviation": deviation,
            **components,
        }

    def _ask(self, way: str, task: AnyTask) -> list[AnswerRecord]:
        self.predictor.images.keep(())  # an image of the run before would be known
        records = ask_all(self.ways[way], task, batches_of(task.items))
        return [record for record in records if isinstance(record, AnswerRecord)]

    def _time(self, way: str, task: AnyTask) -> Timed:
        wall, cpu = seconds_now(self.predictor.device), time.process_time()
        self._ask(way, task)
        return Timed(seconds_now(self.predictor.device) - wall, time.process_time() - cpu)

    def _compare(self, task: AnyTask) -> dict[str, int]:
        """Deviations of the two ways; what the towers make of the images is kept."""
        together = self._ask("together", task)
        self.towers.state, self.towers.seconds = Towers.REMEMBER, 0.0
        with self.predictor.noting():
            alone = self._ask("alone", task)
        if [record.item_id for record in alone] != [record.item_id for record in together]:
            raise ValueError("the two ways asked different items")
        num_pixels = num_far = 0
        near_zero = iter(self.predictor.near_zero)
        for one, other in zip(alone, together, strict=True):
            if one.mask is None or one.mask.predicted is None or other.mask is None or other.mask.predicted is None:
                continue
            differs = decode_mask(one.mask.predicted) != decode_mask(other.mask.predicted)
            num_pixels += int(differs.sum())
            num_far += int((differs & ~next(near_zero)[0]).sum())
        return {
            "differing_texts": sum(one.reply != other.reply for one, other in zip(alone, together, strict=True)),
            "mask_pixels": num_pixels,
            "mask_pixels_beyond_rounding": num_far,
        }


if __name__ == "__main__":
    CLI(main, as_positional=False)
