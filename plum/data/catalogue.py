"""The downloads for stage 0 and for further benchmarks: their paths under one root, purpose, licence and source.

Licences are given as the publishers state them, to the best of our knowledge; read the originals before use. Links are
those that the LISA family names; some of these servers are not always available.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

COCO_PHOTOS = "photographs: Flickr's terms of use"
REFER_SOURCE = "https://github.com/lichengunc/refer, or through web.archive.org/web/2022/https://bvisionweb1.cs.unc.edu"
REFER_LICENCE = f"none stated for the sentences; COCO's annotations: CC BY 4.0; {COCO_PHOTOS}"
DATA_OF_KIND = {"llava_instruct": "llava_instruct", "reasoning": "reason_seg", "mmr": "mmr"}
"""Data set of each kind of source that has only one."""
BENCHMARK = "benchmark"
"""Group of the data sets that are used for validation only."""
COCO_SOURCE = "http://images.cocodataset.org/zips"


@dataclass(frozen=True)
class Need:
    """Files of a data set: one file, or the files of a folder that match `pattern`."""

    what: str
    path: str
    pattern: str = ""


@dataclass(frozen=True)
class CatalogueEntry:
    """One data set.

    Attributes:
        name: as in `SourceConfig.dataset`, if the kind has one.
        group: its group in the mixture.
        purpose: what it teaches.
        needs: its files, relative to the root.
        licence: its terms.
        source: where users get it.
        next_step: command to run before training; empty: none.
    """

    name: str
    group: str
    purpose: str
    needs: tuple[Need, ...]
    licence: str
    source: str
    next_step: str = ""


class State(Enum):
    """How complete a data set is."""

    THERE = "there"
    PARTLY = "partly there"
    MISSING = "missing"


@dataclass(frozen=True)
class Found:
    """A need and the number of its files that were found."""

    need: Need
    count: int


@dataclass(frozen=True)
class EntryStatus:
    """A data set and which of its files are under the root."""

    entry: CatalogueEntry
    found: tuple[Found, ...]

    @property
    def state(self) -> State:
        """Whether all of it, some of it or nothing was found."""
        if all(one.count for one in self.found):
            return State.THERE
        return State.PARTLY if any(one.count for one in self.found) else State.MISSING


def survey(root: Path, entries: Iterable[CatalogueEntry] | None = None) -> tuple[EntryStatus, ...]:
    """Count the files of every data set under a root.

    Raises:
        FileNotFoundError: the root is not a folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: no such folder; --root is the folder that holds coco/, ade20k/, refer_seg/, ..."
        )
    return tuple(
        EntryStatus(entry, tuple(Found(need, count_files(root / need.path, need.pattern)) for need in entry.needs))
        for entry in (CATALOGUE if entries is None else entries)
    )


def count_files(path: Path, pattern: str) -> int:
    """Return the number of files: 0 or 1 for a file, the number of matches for a folder with a pattern."""
    if not pattern:
        return int(path.is_file())
    return sum(1 for _ in path.glob(pattern)) if path.is_dir() else 0


def _referring(name: str, split_by: str, images: Need, licence: str) -> CatalogueEntry:
    folder = f"refer_seg/{name}"
    needs = (
        Need("sentences", f"{folder}/refs({split_by}).p"),
        Need("annotations", f"{folder}/instances.json"),
        images,
    )
    return CatalogueEntry(name, "referring", "objects by what people call them", needs, licence, REFER_SOURCE)


def _build_step(source: str, annotations: str, images: str, output: str) -> str:
    return (
        f"python -m partonomy build --source {source} --annotations {{root}}/{annotations} --images {{root}}/{images} "
        f"--output {output}"
    )


_COCO_TRAIN = Need("photographs", "coco/train2017", "*.jpg")
_COCO_TRAIN_2014 = Need("photographs", "refer_seg/images/mscoco/images/train2014", "*.jpg")

CATALOGUE: Sequence[CatalogueEntry] = (
    CatalogueEntry(
        "ade20k",
        "semantic",
        "150 classes of things and stuff",
        (Need("photographs", "ade20k/images/training", "*.jpg"), Need("maps", "ade20k/annotations/training", "*.png")),
        "annotations: BSD 3-Clause; photographs: non-commercial research and education",
        "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    ),
    CatalogueEntry(
        "cocostuff",
        "semantic",
        "182 classes of things and stuff, of which 28 catch-alls are ignored",
        (_COCO_TRAIN, Need("maps", "cocostuff/train2017", "*.png")),
        f"annotations: CC BY 4.0; {COCO_PHOTOS}",
        f"{COCO_SOURCE}/train2017.zip; stuffthingmaps_trainval2017.zip from https://github.com/nightrome/cocostuff",
    ),
    CatalogueEntry(
        "mapillary",
        "semantic",
        "street scenes; LISA's mixture, not named by the paper",
        (
            Need("classes", "mapillary/config_v2.0.json"),
            Need("photographs", "mapillary/training/images", "*.jpg"),
            Need("maps", "mapillary/training/v2.0/labels", "*.png"),
        ),
        "research edition: CC BY-NC-SA",
        "https://www.mapillary.com/dataset/vistas",
    ),
    CatalogueEntry(
        "paco_lvis",
        "semantic",
        "parts of 75 everyday objects",
        (Need("annotations", "vlpart/paco/annotations/paco_lvis_v1_train.json"), _COCO_TRAIN),
        f"see its repository (code: MIT); {COCO_PHOTOS}",
        "https://github.com/facebookresearch/paco",
        _build_step("paco", "vlpart/paco/annotations/paco_lvis_v1_train.json", "coco", "data/paco"),
    ),
    CatalogueEntry(
        "pascal_part",
        "semantic",
        "parts of 20 classes; train.json is VLPart's, Annotations_Part/*.mat the original",
        (
            Need("annotations", "vlpart/pascal_part/train.json"),
            Need("photographs", "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages", "*.jpg"),
        ),
        "none stated for the parts; photographs: Flickr's terms of use",
        "https://github.com/facebookresearch/VLPart/tree/main/datasets#pascal-part",
        _build_step("pascal_part", "vlpart/pascal_part/train.json", "vlpart/pascal_part/VOCdevkit", "data/pascal"),
    ),
    CatalogueEntry(
        "part_imagenet",
        "semantic",
        "parts of 11 super-categories",
        (
            Need("annotations", "vlpart/partimagenet/train.json"),
            Need("photographs", "vlpart/partimagenet", "train/**/*.JPEG"),
        ),
        "photographs: ImageNet's terms of access (non-commercial research and education)",
        "https://github.com/TACJu/PartImageNet",
        _build_step("part_imagenet", "vlpart/partimagenet/train.json", "vlpart/partimagenet", "data/part_imagenet"),
    ),
    _referring(
        "refclef",
        "unc",
        Need("photographs", "refer_seg/images/saiapr_tc-12", "**/*.jpg"),
        "none stated for the sentences; photographs (SAIAPR TC-12): research, see ImageCLEF",
    ),
    _referring("refcoco", "unc", _COCO_TRAIN_2014, REFER_LICENCE),
    _referring("refcoco+", "unc", _COCO_TRAIN_2014, REFER_LICENCE),
    _referring("refcocog", "umd", _COCO_TRAIN_2014, REFER_LICENCE),
    CatalogueEntry(
        "llava_instruct",
        "vqa",
        "dialogues in words, which keep the language model what it was",
        (Need("dialogues", "llava_dataset/llava_instruct_150k.json"), _COCO_TRAIN),
        f"CC BY 4.0 (early releases: CC BY-NC 4.0) and OpenAI's terms of use; {COCO_PHOTOS}",
        "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
    ),
    CatalogueEntry(
        "reason_seg",
        "reasoning",
        "questions that do not name their target",
        (
            Need("training images", "reason_seg/ReasonSeg/train", "*.jpg"),
            Need("training records", "reason_seg/ReasonSeg/train", "*.json"),
            Need("explanations", "reason_seg/ReasonSeg/explanatory/train.json"),
            Need("validation images", "reason_seg/ReasonSeg/val", "*.jpg"),
        ),
        "none stated for the questions; photographs of OpenImages (CC BY) and ScanNet (its terms of use)",
        "https://github.com/dvlab-research/LISA#dataset",
    ),
    CatalogueEntry(
        "mmr",
        "mmr",
        "implicit questions about several objects and parts; M2SA's mixture, not the PLUM paper's",
        (
            Need("training questions", "MMR/MMR_train.json"),
            Need("validation", "MMR/MMR_val.json"),
            Need("test questions", "MMR", "MMR_test_*.json"),
            Need("photographs", "refer_seg/images/mscoco/images/train2017", "*.jpg"),
        ),
        f"questions: CC BY 4.0 (made with GPT-4V: OpenAI's terms of use); {COCO_PHOTOS}",
        "https://github.com/jdg900/MMR; or MMR-like data of your own: python -m partonomy build-mmr",
    ),
    CatalogueEntry(
        "refcocom",
        BENCHMARK,
        "parts and objects by expressions (plum validate refcocom --root ROOT)",
        (
            Need("expressions", "refer_seg/RefCOCOm/annotations", "*.json"),
            Need("masks", "refer_seg/RefCOCOm/masks", "*.png"),
            _COCO_TRAIN_2014,
        ),
        f"none stated for the expressions; {COCO_PHOTOS}",
        "https://github.com/Rubics-Xuan/MRES",
    ),
    CatalogueEntry(
        "grefcoco",
        BENCHMARK,
        "one object, several, or none, by expressions (plum validate grefcoco --root ROOT)",
        (
            Need("expressions", "refer_seg/grefcoco/grefs(unc).json"),
            Need("annotations", "refer_seg/grefcoco/instances.json"),
            _COCO_TRAIN_2014,
        ),
        f"none stated for the expressions; {COCO_PHOTOS}",
        "https://github.com/henghuiding/gRefCOCO",
    ),
    CatalogueEntry(
        "instructpart",
        BENCHMARK,
        "parts of everyday objects by instructions (plum validate instructpart --root ROOT)",
        (
            Need("test records", "instructpart_part/InstructPart/test/data_test.json"),
            Need("photographs", "instructpart_part/InstructPart/test/images", "*.jpg"),
            Need("masks", "instructpart_part/InstructPart/test/masks", "*.*g"),
        ),
        "MIT, as its repository states; photographs of Flickr and AGD20K: their terms of use",
        "https://github.com/zifuwan/InstructPart",
    ),
    CatalogueEntry(
        "cityscapes",
        BENCHMARK,
        "several classes of a street scene (plum validate multicityscapes --root ROOT)",
        (
            Need("photographs", "cityscapes/leftImg8bit/val", "*/*_leftImg8bit.png"),
            Need("label maps", "cityscapes/gtFine/val", "*/*_gtFine_labelIds.png"),
        ),
        "its own terms: non-commercial research; registration",
        "https://www.cityscapes-dataset.com (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip)",
    ),
    CatalogueEntry(
        "gtav",
        BENCHMARK,
        "several classes of a rendered street scene (plum validate multigtav --root ROOT)",
        (
            Need("images", "gtav/images", "*.png"),
            Need("label maps", "gtav/labels", "*.png"),
            Need("splits", "gtav/split.mat"),
        ),
        "see its page: research and education",
        "https://download.visinf.tu-darmstadt.de/data/from_games (images, labels, code with split.mat)",
    ),
    CatalogueEntry(
        "textvqa",
        BENCHMARK,
        "questions about text in images (plum validate textvqa --root ROOT/textvqa)",
        (
            Need("questions", "textvqa/TextVQA_0.5.1_val.json"),
            Need("OCR tokens", "textvqa/TextVQA_Rosetta_OCR_v0.2_val.json"),
            Need("photographs", "textvqa/train_images", "*.jpg"),
        ),
        "annotations: CC BY 4.0; photographs of OpenImages: CC BY 2.0",
        "https://textvqa.org/dataset",
    ),
    CatalogueEntry(
        "gqa",
        BENCHMARK,
        "compositional questions (plum validate gqa --root ROOT/gqa)",
        (
            Need("questions", "gqa", "**/testdev_balanced_questions.json"),
            Need("photographs", "gqa/images", "*.jpg"),
        ),
        "questions: CC BY 4.0; photographs: those of Visual Genome",
        "https://cs.stanford.edu/people/dorarad/gqa/download.html",
    ),
    CatalogueEntry(
        "pope",
        BENCHMARK,
        "is an object there? (plum validate pope --root ROOT/pope)",
        (
            Need("questions", "pope", "**/coco_pope_*.json"),
            Need("photographs", "pope", "**/val2014/*.jpg"),
        ),
        f"see its repository (code: MIT); {COCO_PHOTOS}",
        f"https://github.com/AoiDragon/POPE; {COCO_SOURCE}/val2014.zip",
    ),
)
