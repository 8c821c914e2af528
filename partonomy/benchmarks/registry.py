"""The benchmarks that `python -m partonomy run` knows. A new one is a file with a `Benchmark` and one line here."""

from collections.abc import Callable, Sequence
from functools import partial

from partonomy.benchmarks import gqa, grefcoco, instruct_part, pope, textvqa
from partonomy.benchmarks.mmr import MMR_SPLITS, MultiTargetItem, MultiTargetOptions, MultiTargetTask, read_mmr_items
from partonomy.benchmarks.multi_referring import MULTI_REFERRING_NAMES, read_multi_referring
from partonomy.benchmarks.partonomy.task import PartonomyOptions, PartonomyTask, read_partonomy
from partonomy.benchmarks.reason_seg import read_reason_seg
from partonomy.benchmarks.refcocom import read_refcocom
from partonomy.benchmarks.referring import read_referring
from partonomy.benchmarks.segmentation import SegmentationItem, SegmentationOptions, SegmentationTask
from partonomy.benchmarks.task import AnyTask, Benchmark, Source, define_benchmark, first_of_each_group
from partonomy.benchmarks.textvqa import TextVqaOptions
from partonomy.benchmarks.vqa import VqaFunctions, VqaItem, VqaOptions, VqaProtocol, VqaTask


def _segmentation(
    name: str, title: str, splits: str, read: Callable[[Source], Sequence[SegmentationItem]], quoted_by: str
) -> Benchmark:
    return define_benchmark(
        name,
        title,
        splits,
        options=SegmentationOptions,
        read_items=lambda source, options: read(source),
        make_task=partial(SegmentationTask, quoted_by=quoted_by),
        takes_annotations=name == "refcocom",
    )


def _multi_target(
    name: str, title: str, splits: str, read: Callable[[Source], Sequence[MultiTargetItem]], quoted_by: str
) -> Benchmark:
    return define_benchmark(
        name,
        title,
        splits,
        options=MultiTargetOptions,
        read_items=lambda source, options: read(source),
        make_task=partial(MultiTargetTask, quoted_by=quoted_by),
        takes_annotations=name == "mmr",
    )


def _make_vqa(functions: VqaFunctions, name: str, split: str, options: VqaOptions, items: Sequence[VqaItem]) -> AnyTask:
    is_plain = isinstance(options, TextVqaOptions) and not options.has_ocr
    return VqaTask(name, split, options.protocol, functions, items, textvqa.NO_OCR if is_plain else "")


def _read_referring(name: str, source: Source) -> Sequence[SegmentationItem]:
    return read_referring(source.root, name, str(source.split))


def _read_multi_referring(name: str, source: Source) -> Sequence[MultiTargetItem]:
    return read_multi_referring(source.root, name, str(source.split))


def _read_textvqa(source: Source, options: TextVqaOptions) -> Sequence[VqaItem]:
    return textvqa.read_textvqa(source.root, str(source.split), options.has_ocr)


def _read_gqa(source: Source, options: VqaOptions) -> Sequence[VqaItem]:
    return gqa.read_gqa(source.root, str(source.split), options.protocol)


def _gqa_split(options: VqaOptions) -> str:
    return "val" if options.protocol is VqaProtocol.PARTONOMY_COMPAT else "testdev"


def _read_pope(source: Source, options: VqaOptions) -> Sequence[VqaItem]:
    return pope.read_pope(source.root, str(source.split))


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
        grefcoco.BENCHMARK,
        instruct_part.BENCHMARK,
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
        define_benchmark(
            "textvqa",
            "Questions about text in images",
            "val",
            options=TextVqaOptions,
            read_items=_read_textvqa,
            make_task=partial(_make_vqa, textvqa.FUNCTIONS),
        ),
        define_benchmark(
            "gqa",
            "Compositional questions about scenes",
            "testdev, val; default val under partonomy_compat, else testdev",
            options=VqaOptions,
            read_items=_read_gqa,
            make_task=partial(_make_vqa, gqa.FUNCTIONS),
            default_split=_gqa_split,
        ),
        define_benchmark(
            "pope",
            "Is an object in the image? Yes-or-no questions that catch hallucination",
            ", ".join((*pope.CATEGORIES, pope.ALL_CATEGORIES)),
            options=VqaOptions,
            read_items=_read_pope,
            make_task=partial(_make_vqa, pope.FUNCTIONS),
            default_split=lambda options: pope.ALL_CATEGORIES,
            keep=first_of_each_group,
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
