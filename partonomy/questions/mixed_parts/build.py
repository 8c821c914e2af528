"""Builds a folder of pairs (`partonomy.datasets.mixed_parts`) from part data sets of the project's own form.

The samples of a split, a source and a task are a block. Blocks do not depend on each other; each is written atomically,
and an interrupted build continues with the next one. In the end the blocks of a split are joined in order.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from partonomy.datasets.mixed_parts import (
    BUILD_FILE,
    COMPARABLE_FILE,
    DATASET_FILE,
    FORMAT,
    FORMAT_VERSION,
    SPLITS,
    PairTask,
    TargetCounts,
    split_file,
)
from partonomy.datasets.store import ANNOTATIONS_FILE, load_dataset
from partonomy.files import hash_files, hash_json, json_bytes, open_atomically, read_json, remove_remains, write_json
from partonomy.progress import progress
from partonomy.questions.mixed_parts.index import (
    IndexedImage,
    MaskFile,
    SourceIndex,
    Unit,
    index_dataset,
    select_images,
)
from partonomy.questions.mixed_parts.sampler import DrawnPair, PairSampler, SamplerSettings, split_places
from partonomy.questions.mixed_parts.taxonomy import (
    ComparableRules,
    Decision,
    JudgedPair,
    judge_pairs,
    write_judged,
)

BLOCKS_FOLDER, ACCOUNT_FILE = "blocks", "account.json"
BUILDER_VERSION = 1
"""Changes whenever the same settings give other samples."""
TRAINING_WEIGHTS: Mapping[PairTask, int] = {
    PairTask.COMMON_OBJECTS: 2,
    PairTask.COMMON_PARTS: 1,
    PairTask.UNIQUE_PARTS: 1,
}
"""Paper (B): half of the samples of a source are about objects, half about parts."""


@dataclass(frozen=True)
class MixedPartsConfig:
    """Settings of a build.

    Attributes:
        sampler: How pairs are drawn.
        num_samples: Samples of train, val and test, over all sources.
        shares: Shares of each source's images in train, val and test.
        unit: What counts as one object of an image.
        min_pixels: Smallest number of pixels of an object or a part that is asked for.
    """

    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    num_samples: tuple[int, int, int] = (2_400_000, 999, 999)
    shares: tuple[float, float, float] = (0.9, 0.05, 0.05)
    unit: Unit = Unit.LABEL
    min_pixels: int = 100

    def __post_init__(self) -> None:
        if min(self.num_samples) < 0 or not sum(self.num_samples):
            raise ValueError(f"the numbers of samples must not be negative or all 0, got {self.num_samples}")
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(f"--shares must be three numbers of at least 0 that sum to 1, got {self.shares}")
        if self.min_pixels < 1:
            raise ValueError(f"--min_pixels must be at least 1, got {self.min_pixels}")


@dataclass(frozen=True)
class Block:
    """The samples of a split, a source and a task, and how many of them are wanted."""

    split: str
    source: str
    task: PairTask
    wanted: int

    @property
    def stem(self) -> str:
        """The stem of the block's file names."""
        digest = hashlib.sha256(self.source.encode()).hexdigest()[:8]  # a source may have any name
        return f"{self.split}-{digest}-{self.task}"


@dataclass
class BlockCounts:
    """Counts of a block, as in `build.json`.

    Attributes:
        split, source, task, wanted: See `Block`.
        num_samples: Samples written.
        num_classes: Pairs of classes with a sample.
        targets: Number of samples by number of targets: objects, parts that both images show, or parts of one image.
        rejected: Draws without a sample, by reason.
    """

    split: str
    source: str
    task: str
    wanted: int
    num_samples: int = 0
    num_classes: int = 0
    targets: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)

    @property
    def target_counts(self) -> TargetCounts:
        """The samples by number of targets."""
        return TargetCounts(Counter({int(number): count for number, count in self.targets.items()}))


@dataclass(frozen=True)
class BuildReport:
    """What a build wrote: counts by block, what was left out of each source, and the judged pairs of classes."""

    blocks: tuple[BlockCounts, ...]
    left_out: Mapping[str, Mapping[str, int]]
    num_images: Mapping[str, int]
    num_candidates: Mapping[str, int]
    num_accepted: Mapping[str, int]


def build_mixed_parts(
    datasets: Sequence[Path], folder: Path, config: MixedPartsConfig, rules: ComparableRules
) -> BuildReport:
    """Build the pairs, or continue an interrupted build with the same settings.

    Args:
        datasets: Folders of data sets of the project's own form; their names must differ.
        folder: Output folder; the caller holds its lock.
        config: Settings.
        rules: Which classes are compared.

    Raises:
        ValueError: Two data sets share a name, or no sample can be drawn at all.
        FileNotFoundError: A folder is not a data set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_remains(folder)
    (folder / BUILD_FILE).unlink(missing_ok=True)
    account = build_account(datasets, config, rules)
    masks = MaskFile()
    sources = _read_sources(datasets, masks, config)
    judged = {source.name: judge_pairs(source.name, source.taxonomy, source.categories, rules) for source in sources}
    write_judged((one for pairs in judged.values() for one in pairs), folder / COMPARABLE_FILE)
    _write_description(folder, sources)
    writer = BlockWriter(_open_blocks(folder, hash_json(account)), masks, judged, config)
    counts = write_samples(folder, sources, writer)
    report = BuildReport(
        tuple(counts),
        {source.name: dict(sorted(source.left_out.items())) for source in sources},
        {source.name: len(source.images) for source in sources},
        {name: sum(one.pair.first != one.pair.second for one in pairs) for name, pairs in judged.items()},
        {
            name: sum(one.pair.first != one.pair.second and one.decision is Decision.ACCEPT for one in pairs)
            for name, pairs in judged.items()
        },
    )
    if not any(one.num_samples for one in counts):
        raise ValueError(f"{folder}: no pair of images has anything in common, or anything that only one of them has")
    files = [split_file(folder, split) for split in SPLITS if split_file(folder, split).is_file()]
    hashes = {path.name: hash_files([path]) for path in (*files, folder / DATASET_FILE, folder / COMPARABLE_FILE)}
    write_json(folder / BUILD_FILE, {**account, **asdict(report), "sha256": hashes}, indent=2)
    shutil.rmtree(folder / BLOCKS_FOLDER)
    return report


def build_account(datasets: Sequence[Path], config: MixedPartsConfig, rules: ComparableRules) -> dict[str, object]:
    """Return everything that the samples depend on, as JSON values.

    Raises:
        FileNotFoundError: A folder is not a data set.
    """
    sources = []
    for path in datasets:
        if not (path / ANNOTATIONS_FILE).is_file():
            raise FileNotFoundError(
                f"{path} is not a data set folder, because it has no {ANNOTATIONS_FILE}; make one with python -m "
                "partonomy build"
            )
        sources.append(hash_files([path / ANNOTATIONS_FILE]))
    review = sorted([pair.source, pair.first, pair.second, choice] for pair, choice in rules.review.items())
    content = {
        "builder_version": BUILDER_VERSION,
        "annotations_sha256": sources,
        "config": asdict(config),
        "groups_sha256": hash_json(rules.groups),
        "review_sha256": hash_json(review),
        "min_overlap": rules.min_overlap,
    }
    normalised: dict[str, object] = json.loads(json.dumps(content))
    return normalised


def is_built(folder: Path, account: Mapping[str, object]) -> bool | None:
    """Return whether the folder holds a finished build with these settings; None if with others.

    Raises:
        ValueError: `build.json` is damaged.
    """
    path = folder / BUILD_FILE
    if not path.is_file():
        return False
    content = read_json(path)
    if any(content.get(key) != value for key, value in account.items()):
        return None
    return all(split_file(folder, split).is_file() for split in SPLITS if _wanted_of(account, split))


def _wanted_of(account: Mapping[str, object], split: str) -> int:
    config = account["config"]
    assert isinstance(config, dict)
    return int(config["num_samples"][SPLITS.index(split)])


def _read_sources(datasets: Sequence[Path], masks: MaskFile, config: MixedPartsConfig) -> list[SourceIndex]:
    sources: dict[str, SourceIndex] = {}
    for path in datasets:
        index = index_dataset(load_dataset(path), masks, config.unit, config.min_pixels)
        if index.name in sources:
            raise ValueError(
                f"{path}: another data set is also called {index.name!r}; give one of them another --name when it is "
                "built"
            )
        sources[index.name] = index
    masks.finish()
    return list(sources.values())


def _write_description(folder: Path, sources: Sequence[SourceIndex]) -> None:
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "sources": {
            source.name: {
                "image_root": source.image_root.resolve().as_posix(),
                "taxonomy": {label: sorted(parts) for label, parts in source.taxonomy.items()},
            }
            for source in sources
        },
    }
    write_json(folder / DATASET_FILE, content, indent=2)


@dataclass(frozen=True)
class BlockWriter:
    """Writes the blocks of a build that are missing.

    Attributes:
        folder: Folder of the blocks.
        masks: The masks of all sources.
        judged: The judged pairs of classes, by source.
        config: Settings.
    """

    folder: Path
    masks: MaskFile
    judged: Mapping[str, Sequence[JudgedPair]]
    config: MixedPartsConfig

    def write_split(self, split: str, sources: Sequence[SourceIndex]) -> tuple[tuple[Block, ...], list[BlockCounts]]:
        """Write the missing blocks of a split, and return all of its blocks with their counts."""
        number = SPLITS.index(split)
        blocks = plan_blocks(split, self.config.num_samples[number], [source.name for source in sources])
        counts = []
        for source in sources:
            keys = (image_key(source.name, image) for image in source.images)
            index = select_images(source, split_places(keys, self.config.shares)[number])
            for block in (one for one in blocks if one.source == source.name):
                path = self.path_of(block).with_suffix(".json")
                if not path.is_file():
                    self._write(block, index)
                counts.append(BlockCounts(**read_json(path)))
        return blocks, counts

    def path_of(self, block: Block) -> Path:
        """Return the file of a block's samples; its counts have the suffix .json."""
        return self.folder / f"{block.stem}.jsonl"

    def _write(self, block: Block, index: SourceIndex) -> None:
        """Write a block's samples and then its counts, which say that it is finished."""
        judged = self.judged[block.source]
        comparable = [(one.pair.first, one.pair.second) for one in judged if one.decision is Decision.ACCEPT]
        key = int.from_bytes(hashlib.sha256(block.stem.encode()).digest()[:8], "big")
        sampler = PairSampler(index, block.task, comparable, self.config.sampler, key=key)
        targets = Counter[int]()
        label = f"{block.split} {block.source} {block.task}"
        with open_atomically(self.path_of(block)) as file, progress(block.wanted, label, "pair") as shown:
            for number, drawn in enumerate(sampler.draw(block.wanted)):
                sample_id = f"{block.split}/{block.source}/{block.task}/{number}"
                file.write(sample_line(sample_id, block, index, drawn, self.masks))
                targets[count_targets(block.task, drawn)] += 1
                shown.update()
        counts = BlockCounts(
            block.split,
            block.source,
            block.task.value,
            block.wanted,
            sampler.counts.num_samples,
            len(sampler.counts.by_classes),
            {str(number): targets[number] for number in sorted(targets)},
            dict(sorted(sampler.counts.rejected.items())),
        )
        write_json(self.path_of(block).with_suffix(".json"), asdict(counts))


def write_samples(folder: Path, sources: Sequence[SourceIndex], writer: BlockWriter) -> list[BlockCounts]:
    """Write the files of all splits, and return the counts of their blocks."""
    counts: list[BlockCounts] = []
    for split in SPLITS:
        split_file(folder, split).unlink(missing_ok=True)
        blocks, of_split = writer.write_split(split, sources)
        counts += of_split
        if blocks:
            _join([writer.path_of(block) for block in blocks], split_file(folder, split))
    return counts


def _open_blocks(folder: Path, account_hash: str) -> Path:
    """Return the folder of the blocks; those of a build with other settings are deleted."""
    blocks_folder = folder / BLOCKS_FOLDER
    if blocks_folder.is_dir() and not _is_own(blocks_folder, account_hash):
        shutil.rmtree(blocks_folder)
    blocks_folder.mkdir(exist_ok=True)
    remove_remains(blocks_folder)
    write_json(blocks_folder / ACCOUNT_FILE, {"sha256": account_hash})
    return blocks_folder


def _is_own(blocks_folder: Path, account_hash: str) -> bool:
    path = blocks_folder / ACCOUNT_FILE
    return path.is_file() and read_json(path).get("sha256") == account_hash


def plan_blocks(split: str, num_samples: int, sources: Sequence[str]) -> tuple[Block, ...]:
    """Divide the samples of a split equally among the sources, and those of a source among the tasks.

    Training samples are half about objects and half about parts; val and test have equal thirds (paper, section 5.1).
    Remainders go to the first sources and tasks.
    """
    weights = TRAINING_WEIGHTS if split == "train" else dict.fromkeys(PairTask, 1)
    blocks = []
    for name, of_source in zip(sources, divide(num_samples, [1] * len(sources)), strict=True):
        for task, wanted in zip(weights, divide(of_source, list(weights.values())), strict=True):
            if wanted:
                blocks.append(Block(split, name, task, wanted))
    return tuple(blocks)


def divide(total: int, weights: Sequence[int]) -> list[int]:
    """Divide a number in proportion to weights; remainders go to the first."""
    parts = [total * weight // sum(weights) for weight in weights]
    for place in range(total - sum(parts)):
        parts[place] += 1
    return parts


def image_key(source: str, image: IndexedImage) -> int:
    """Return the 64-bit hash by which an image belongs to a split, independent of seed and order."""
    return int.from_bytes(hashlib.sha256(f"{source}/{image.file_name}".encode()).digest()[:8], "big")


def count_targets(task: PairTask, drawn: DrawnPair) -> int:
    """Count the targets of a sample as the paper's Table 4 does: a part that both images show counts once."""
    first, second = drawn.targets
    return len(first) + len(second) if task is PairTask.UNIQUE_PARTS else len(first)


def sample_line(sample_id: str, block: Block, index: SourceIndex, drawn: DrawnPair, masks: MaskFile) -> bytes:
    """Return the line of a sample, with its newline; objects and parts are in the order of their images and labels."""
    images = [index.images[place] for place in drawn.places]
    is_about_objects = block.task is PairTask.COMMON_OBJECTS
    objects, parts = [], []
    for number, (image, label, targets) in enumerate(zip(images, drawn.labels, drawn.targets, strict=True)):
        for name in targets if is_about_objects else (label,):
            mask = masks.text(image.objects[name].mask)
            objects.append(f'{{"label": {json.dumps(name)}, "image": {number}, "rle": {mask}}}')
        for name in () if is_about_objects else targets:
            mask = masks.text(image.objects[label].parts[name])
            owned = f'"label": {json.dumps(name)}, "owner": {json.dumps(label)}'
            parts.append(f'{{{owned}, "image": {number}, "rle": {mask}}}')
    names = [image.file_name for image in images]
    head = {"id": sample_id, "task": block.task.value, "source": block.source, "images": names}
    body = f', "objects": [{", ".join(objects)}], "parts": [{", ".join(parts)}]}}\n'
    return json_bytes(head)[:-1] + body.encode("ascii")


def _join(paths: Sequence[Path], target: Path) -> None:
    with open_atomically(target) as joined:
        for path in paths:
            with path.open("rb") as file:
                shutil.copyfileobj(file, joined, 1 << 20)


def read_report(folder: Path) -> BuildReport:
    """Read the counts of a finished build from `build.json`.

    Raises:
        ValueError: The file is damaged.
    """
    content = read_json(folder / BUILD_FILE)
    try:
        blocks = tuple(BlockCounts(**block) for block in content["blocks"])
        names = ("left_out", "num_images", "num_candidates", "num_accepted")
        return BuildReport(blocks, *(content[name] for name in names))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / BUILD_FILE}: not the file of a build ({error}); build again") from error


def iterate_shortfalls(report: BuildReport) -> Iterator[BlockCounts]:
    """Yield the blocks that have fewer samples than wanted."""
    return (block for block in report.blocks if block.num_samples < block.wanted)
