"""Time and memory of building questions: `python scripts/bench/questions.py --images 58706 [--num_workers 2]`.

Writes a made-up data set without image files, in the label counts of the paper's training set (Table 8: 89 objects, 216
parts, 563 object-part labels, 5.48 masks an image), reads it as a user's would be read, and builds the five question
types of the tables. The last line printed is one JSON object:
- seconds: reading the annotations and building, with the model of the object names' embedding at hand;
- seconds_read, seconds_save, seconds_fit, seconds_questions: its parts;
- seconds_embedding: loading that model and its packages and embedding the names, before the clock starts;
- ms_per_question: `seconds` over the questions;
- cpu_ms_per_question: the same in processor time of all processes, for a machine that does other things as well;
- peak_mb: the most memory that all processes held at one time (Linux).
"""

import argparse
import contextlib
import json
import resource
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from partonomy.datasets.store import DatasetOrigin, load_dataset, save_dataset
from partonomy.masks import encode_mask
from partonomy.metrics.part_embedding import DEFAULT_EMBEDDING_MODEL, embed_texts
from partonomy.questions.answer_mutator import MutationMode
from partonomy.questions.generator import QuestionBuildConfig, build_questions
from partonomy.structures import RLE, TABLE_TYPES, AnnotatedImage, ObjectInstance, Part, PartDataset

NUM_OBJECTS, NUM_PARTS, NUM_OBJECT_PARTS = 89, 216, 563
MASKS_PER_IMAGE = 321_751 / 58_706
NUM_CATEGORIES = 11
SECOND_INSTANCE_SHARE = 0.15
HEIGHT, WIDTH = 480, 640
NUM_MASKS = 300
SECONDS_BETWEEN_LOOKS = 0.05


def draw_part_lists(generator: np.random.Generator) -> list[np.ndarray]:
    """Parts of every object: few objects have many, some parts are common, and none is left out."""
    popularity = 1.0 / np.arange(1, NUM_PARTS + 1) ** 0.7
    sizes = 1 + generator.multinomial(NUM_OBJECT_PARTS - NUM_OBJECTS, generator.dirichlet(np.full(NUM_OBJECTS, 1.5)))
    owners = np.repeat(np.arange(NUM_OBJECTS), sizes)
    generator.shuffle(owners)
    lists: list[set[int]] = [set() for _ in range(NUM_OBJECTS)]
    for part, owner in enumerate(owners[:NUM_PARTS]):
        lists[owner].add(part)
    for part_list, size in zip(lists, sizes, strict=True):
        free = np.setdiff1d(np.arange(NUM_PARTS), sorted(part_list))
        chances = popularity[free] / popularity[free].sum()
        part_list.update(generator.choice(free, size - len(part_list), replace=False, p=chances).tolist())
    return [np.array(sorted(part_list)) for part_list in lists]


def draw_masks(generator: np.random.Generator) -> list[RLE]:
    """Ellipses of the size of parts."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    masks = []
    for _ in range(NUM_MASKS):
        y, x = generator.uniform(60, HEIGHT - 60), generator.uniform(60, WIDTH - 60)
        a, b = generator.uniform(5, 60, 2)
        masks.append(encode_mask(((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1.0))
    return masks


def make_dataset(num_images: int, seed: int, image_root: Path) -> PartDataset:
    """Images of one object, some of two; each part of an object is visible with a probability of its own."""
    generator = np.random.default_rng(seed)
    part_lists, masks = draw_part_lists(generator), draw_masks(generator)
    chances = [generator.beta(4.0, 1.0, len(parts)) for parts in part_lists]
    num_visible = np.array([chance.sum() for chance in chances])
    # Objects with many parts are photographed more often or less, so that the mean number of masks is the wanted one.
    frequencies = np.ones(NUM_OBJECTS)
    wanted = MASKS_PER_IMAGE / (1.0 + SECOND_INSTANCE_SHARE)
    low, high = -1.0, 1.0
    for _ in range(50):
        tilt = (low + high) / 2
        frequencies = np.exp(tilt * num_visible)
        frequencies /= frequencies.sum()
        low, high = (tilt, high) if frequencies @ num_visible < wanted else (low, tilt)
    images = []
    for image_id in range(1, num_images + 1):
        objects = []
        for _ in range(1 + int(generator.random() < SECOND_INSTANCE_SHARE)):
            number = int(generator.choice(NUM_OBJECTS, p=frequencies))
            is_visible = generator.random(len(chances[number])) < chances[number]
            is_visible[int(generator.integers(len(is_visible)))] |= not is_visible.any()
            parts = tuple(
                Part(f"part {part:03d}", masks[int(generator.integers(NUM_MASKS))])
                for part in part_lists[number][is_visible].tolist()
            )
            objects.append(ObjectInstance(0, f"object {number:02d}", f"category {number % NUM_CATEGORIES}", parts))
        images.append(AnnotatedImage(image_id, f"{image_id:06d}.jpg", HEIGHT, WIDTH, tuple(objects)))
    return PartDataset(f"bench_{num_images}", image_root, tuple(images))


class MemoryWatch:
    """Adds up, every few milliseconds, the memory of this process and its workers, and keeps the largest sum.

    The system's own maximum of a worker would not do: it includes what the worker was before it became Python anew, a
    copy of this process that shares all of its memory.
    """

    def __init__(self) -> None:
        self._largest = 0
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_done.set()
        self._thread.join()

    @property
    def peak_megabytes(self) -> float:
        """The largest sum in MB (10^6 bytes); at least the largest that this process alone ever was."""
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return max(self._largest, own) / 1e6

    def _watch(self) -> None:
        seen: set[str] = set()
        while not self._is_done.wait(SECONDS_BETWEEN_LOOKS):
            # A worker counts from its second look on: for a moment after its birth it is such a copy.
            workers = set(child_pids())
            self._largest = max(self._largest, sum(resident_bytes(pid) for pid in ["self", *(workers & seen)]))
            seen = workers


def child_pids() -> list[str]:
    """The processes that this one has started and that have not ended."""
    pids: list[str] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends meanwhile
            pids += path.read_text().split()
    return pids


def resident_bytes(pid: str) -> int:
    """Memory of a process that is really held, shared pages included; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (FileNotFoundError, ProcessLookupError):
        return 0


def cpu_seconds() -> float:
    """Processor time so far of this process and of its workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure(config: QuestionBuildConfig, num_images: int, folder: Path) -> dict[str, float | int]:
    """Make the data set, read it back, build its questions; see the file's text for what is returned."""
    source = folder / "source"
    save_dataset(make_dataset(num_images, config.seed, source / "images"), source, DatasetOrigin("bench", config.seed))
    begin = time.perf_counter()
    embed_texts([f"object {number:02d}" for number in range(NUM_OBJECTS)], config.embedding_model)
    seconds_embedding = time.perf_counter() - begin
    begin, begin_cpu = time.perf_counter(), cpu_seconds()
    with MemoryWatch() as watch:
        dataset = load_dataset(source)
        seconds_read = time.perf_counter() - begin
        summary = build_questions(dataset, config, folder / "built")
    seconds = time.perf_counter() - begin
    seconds_cpu = cpu_seconds() - begin_cpu
    num_questions = sum(summary.num_questions.values())
    assert summary.seconds is not None
    return {
        "images": num_images,
        "num_questions": num_questions,
        "seconds": round(seconds, 2),
        "seconds_read": round(seconds_read, 2),
        "seconds_save": round(summary.seconds.save, 2),
        "seconds_embedding": round(seconds_embedding, 2),
        "seconds_fit": round(summary.seconds.fit, 2),
        "seconds_questions": round(summary.seconds.questions, 2),
        "cpu_ms_per_question": round(1000 * seconds_cpu / num_questions, 4),
        "peak_mb": round(watch.peak_megabytes),
        "ms_per_question": round(1000 * seconds / num_questions, 4),
    }


def main() -> None:
    """Measure once and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, required=True, help="number of images")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that make questions")
    parser.add_argument("--seed", type=int, default=0, help="of the data set and of its questions")
    parser.add_argument("--mutation", choices=list(MutationMode), default=MutationMode.PAPER, help="wrong answers")
    parser.add_argument("--embedding_model", default=DEFAULT_EMBEDDING_MODEL, help="of the object names")
    parser.add_argument("--output", type=Path, default=None, help="new folder to keep; default: a temporary one")
    arguments = parser.parse_args()
    config = QuestionBuildConfig(
        seed=arguments.seed,
        mutation=MutationMode(arguments.mutation),
        question_types=TABLE_TYPES,
        embedding_model=arguments.embedding_model,
        num_workers=arguments.num_workers,
    )
    if arguments.output is not None and arguments.output.exists():
        parser.error(f"{arguments.output} exists already; choose a new folder")
    folder = arguments.output or Path(tempfile.mkdtemp(prefix="bench_questions_"))
    try:
        result = measure(config, arguments.images, folder)
    finally:
        if arguments.output is None:
            shutil.rmtree(folder)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
