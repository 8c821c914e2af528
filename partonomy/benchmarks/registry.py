"""The benchmarks that `python -m partonomy run` knows. A new one is a task and one line of `BENCHMARKS`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from partonomy.benchmarks import gqa, pope, textvqa
from partonomy.benchmarks.mmr import MMR_SPLITS, MultiTargetItem, MultiTargetOptions, MultiTargetTask, read_mmr_items
from partonomy.benchmarks.multi_referring import MULTI_REFERRING_NAMES, read_multi_referring
from partonomy.benchmarks.partonomy.task import PartonomyOptions, PartonomyTask, read_partonomy
from partonomy.benchmarks.reason_seg import read_reason_seg
from partonomy.benchmarks.refcocom import read_refcocom
from partonomy.benchmarks.referring import read_referring
from partonomy.benchmarks.segmentation import SegmentationItem, SegmentationOptions, SegmentationTask
from partonomy.benchmarks.task import Source, Task, first_of_each_group
from partonomy.benchmarks.textvqa import TextVqaOptions
from partonomy.benchmarks.vqa import VqaFunctions, VqaItem, VqaOptions, VqaProtocol, VqaTask

AnyTask = Task[Any, Any, Any]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark by name.

    Attributes:
        name: As typed.
        title: One line for the list of benchmarks.
        splits: Its splits, for the help text.
        options: Dataclass of its own flags.
        read: Read what is asked under some options.
        make: Return the task of a split and some options without its items, for the metrics of finished runs.
        root_flag: The flag that names the data, without dashes.
        takes_annotations: Whether a file may stand in the place of the split's own.
    """

    name: str
    title: str
    splits: str
    options: type[Any]
    read: Callable[[Source, Any], AnyTask]
    make: Callable[[str, Any], AnyTask]
    root_flag: str = "root"
    takes_annotations: bool = False


ReadItems = Callable[[Source], Sequence[Any]]


def _segmentation(
    name: str, title: str, splits: str, read: Callable[[Source], Sequence[SegmentationItem]], quoted_by: str
) -> Benchmark:
    def read_task(source: Source, options: SegmentationOptions) -> AnyTask:
        source = source.in_split("val")
        return SegmentationTask(name, str(source.split), options, read(source)[: source.limit], quoted_by)

    def make(split: str, options: SegmentationOptions) -> AnyTask:
        return SegmentationTask(name, split, options, quoted_by=quoted_by)

    return Benchmark(name, title, splits, SegmentationOptions, read_task, make, takes_annotations=name == "refcocom")


def _multi_target(
    name: str, title: str, splits: str, read: Callable[[Source], Sequence[MultiTargetItem]], quoted_by: str
) -> Benchmark:
    def read_task(source: Source, options: MultiTargetOptions) -> AnyTask:
        source = source.in_split("val")
        return MultiTargetTask(name, str(source.split), options, read(source)[: source.limit], quoted_by)

    def make(split: str, options: MultiTargetOptions) -> AnyTask:
        return MultiTargetTask(name, split, options, quoted_by=quoted_by)

    return Benchmark(name, title, splits, MultiTargetOptions, read_task, make, takes_annotations=name == "mmr")


def _vqa(
    name: str,
    title: str,
    splits: str,
    *,
    functions: VqaFunctions,
    options_type: type[VqaOptions],
    read: Callable[[Source, Any], Sequence[VqaItem]],
    default_split: Callable[[VqaOptions], str],
) -> Benchmark:
    def make(split: str, options: VqaOptions, items: Sequence[VqaItem] = ()) -> AnyTask:
        is_plain = isinstance(options, TextVqaOptions) and not options.has_ocr
        return VqaTask(name, split, options.protocol, functions, items, textvqa.NO_OCR if is_plain else "")

    def read_task(source: Source, options: VqaOptions) -> AnyTask:
        source = source.in_split(default_split(options))
        return make(str(source.split), options, read(source, options))

    return Benchmark(name, title, splits, options_type, read_task, make)


def _read_referring(name: str, source: Source) -> Sequence[SegmentationItem]:
    return read_referring(source.root, name, str(source.split))


def _read_multi_referring(name: str, source: Source) -> Sequence[MultiTargetItem]:
    return read_multi_referring(source.root, name, str(source.split))


def _read_textvqa(source: Source, options: TextVqaOptions) -> Sequence[VqaItem]:
    return textvqa.read_textvqa(source.root, str(source.split), options.has_ocr)[: source.limit]


def _gqa_split(options: VqaOptions) -> str:
    return "val" if options.protocol is VqaProtocol.PARTONOMY_COMPAT else "testdev"


_BY_UNC, _BY_UMD = "val, testA, testB", "val, test"
BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "partonomy",
            "Explanatory Part Segmentation: ten question types about objects and their parts",
            "the question set itself",
            PartonomyOptions,
            read_partonomy,
            PartonomyTask,
            root_flag="questions",
        ),
        *(
            _segmentation(name, "Referring segmentation", splits, partial(_read_referring, name), "ciou")
            for name, splits in (("refcoco", _BY_UNC), ("refcoco+", _BY_UNC), ("refcocog", _BY_UMD))
        ),
        _segmentation(
            "reasonseg",
            "Reasoning segmentation",
            _BY_UMD,
            lambda source: read_reason_seg(source.root, str(source.split)),
            "giou",
        ),
        _segmentation(
            "refcocom",
            "Referring segmentation of parts and objects",
            "name of an annotation file",
            lambda source: read_refcocom(source.root, str(source.split), source.annotations),
            "giou",
        ),
        _multi_target(
            "mmr",
            "Reasoning segmentation of several objects and parts",
            ", ".join(MMR_SPLITS),
            lambda source: read_mmr_items(source.root, str(source.split), source.annotations),
            "giou",
        ),
        *(
            _multi_target(
                name,
                "Several classes of an image in one question",
                _BY_UNC,
                partial(_read_multi_referring, name),
                "ciou",
            )
            for name in MULTI_REFERRING_NAMES
        ),
        _vqa(
            "textvqa",
            "Questions about text in images",
            "val",
            functions=textvqa.FUNCTIONS,
            options_type=TextVqaOptions,
            read=_read_textvqa,
            default_split=lambda options: "val",
        ),
        _vqa(
            "gqa",
            "Compositional questions about scenes",
            "testdev, val; default val under partonomy_compat, else testdev",
            functions=gqa.FUNCTIONS,
            options_type=VqaOptions,
            read=lambda source, options: gqa.read_gqa(source.root, str(source.split), options.protocol)[: source.limit],
            default_split=_gqa_split,
        ),
        _vqa(
            "pope",
            "Is an object in the image? Yes-or-no questions that catch hallucination",
            ", ".join((*pope.CATEGORIES, pope.ALL_CATEGORIES)),
            functions=pope.FUNCTIONS,
            options_type=VqaOptions,
            read=lambda source, options: first_of_each_group(
                pope.read_pope(source.root, str(source.split)), source.limit
            ),
            default_split=lambda options: pope.ALL_CATEGORIES,
        ),
    )
}
"""Name -> benchmark, in the order of the list that users see."""


def find_benchmark(name: str) -> Benchmark:
    """Look a benchmark up.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
