"""Every reader of the benchmark with damaged input, and what it may do with it."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from partonomy.datasets.assembly import SourceReading
from partonomy.datasets.coco import read_coco
from partonomy.datasets.coco_records import CocoConfig
from partonomy.datasets.paco import read_paco
from partonomy.datasets.part_imagenet import read_part_imagenet
from partonomy.datasets.partonomy_core import question_to_record
from partonomy.datasets.pascal_part_mat import read_mat
from partonomy.datasets.record_exchange import import_records
from partonomy.datasets.store import DatasetOrigin, load_dataset, load_questions, save_dataset
from partonomy.evaluation.aggregate import metric_ratios, unsupported_capabilities
from partonomy.evaluation.record_json import record_to_line
from partonomy.evaluation.results import read_summary, summary_to_json
from partonomy.evaluation.run_directory import read_records
from partonomy.images import check_image, image_size, load_image
from partonomy.masks import decode_mask, intersection_area, rle_area, rle_bbox, rle_from_coco, union_masks
from partonomy.structures import RLE, ObjectInstance, Question, QuestionSet
from tests.fuzz import mutations, worlds
from tests.fuzz.outcomes import ACCEPTED, PARTLY, Refusal, attempt
from tests.partonomy.datasets.published_files import paco_file, part_imagenet_file, save_image, save_mat
from validate_partonomy import main as validate

WHERE = Path("masks.json, annotation 7")
MAX_DECODED = 1 << 20


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes:
        cases: damaged input.
        prepare: writes the valid files into a folder, once.
        check: reads a case in that folder; returns what became of it and raises where the contract is broken.
    """

    name: str
    cases: st.SearchStrategy[Any]
    prepare: Callable[[Path], None]
    check: Callable[[Any, Path], str]


@dataclass
class Tally:
    """What became of the cases of one reader, and the first crashes."""

    outcomes: Counter[str] = field(default_factory=Counter)
    crashes: list[tuple[Any, Exception]] = field(default_factory=list)


def run_cases(
    reader: Reader, num_cases: int, folder: Path, collect_crashes: bool = False, on_case: Callable[[], object] = bool
) -> Tally:
    """Try a reader on damaged files, the same ones each time.

    Args:
        reader: what is tried.
        num_cases: how many.
        folder: empty.
        collect_crashes: count broken contracts instead of stopping at the first.
        on_case: called after each.
    """
    reader.prepare(folder)
    tally = Tally()

    @settings(
        max_examples=num_cases,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(reader.cases)
    def try_case(case: Any) -> None:
        try:
            tally.outcomes[reader.check(case, folder)] += 1
        except Exception as error:
            if not collect_crashes:
                raise
            tally.crashes.append((case, error))
        on_case()

    try_case()
    return tally


def check_source(read: Callable[[CocoConfig], SourceReading], case: bytes, folder: Path) -> str:
    """Both modes agree, and every annotation of the file is in the data set or in the list of those left out."""
    path = folder / "instances.json"
    path.write_bytes(case)
    strict = attempt(lambda: read(CocoConfig(path, folder)), path)
    lenient = attempt(lambda: read(CocoConfig(path, folder, invalid="collect")), path)
    if isinstance(lenient, Refusal):
        assert isinstance(strict, Refusal)
        return f"refused: {lenient.reason_class}"
    for row in lenient.skipped:
        row.reason.encode("utf-8")
    _count_annotations(lenient, json.loads(case.decode("utf-8-sig"))["annotations"])
    _use_dataset(lenient, folder)
    if isinstance(strict, Refusal):
        reasons = {row.reason for row in lenient.skipped}
        assert reasons, "nothing is said to be left out"
        return f"{PARTLY}: {strict.reason_class}"
    assert strict == lenient
    return ACCEPTED


def check_mat(case: bytes, folder: Path) -> str:
    """One file of Pascal-Part."""
    path = folder / "2008_000008.mat"
    path.write_bytes(case)
    objects = attempt(lambda: read_mat(path), path)
    return f"refused: {objects.reason_class}" if isinstance(objects, Refusal) else ACCEPTED


def _count_annotations(reading: SourceReading, annotations: list[Any]) -> None:
    instances = [instance for image in reading.dataset.images for instance in image.objects]
    used = [number for instance in instances for part in instance.parts for number in part.annotation_ids]
    ids = [record.get("id") for record in annotations if isinstance(record, dict)]
    num_objects = sum(instance.instance_id in ids for instance in instances)  # others are implied by their parts
    num_left_out = sum(len(row.annotation_ids) for row in reading.skipped)
    assert len(used) + num_objects + num_left_out == len(annotations), "an annotation vanished"


def _use_dataset(reading: SourceReading, folder: Path) -> None:
    saved = save_dataset(reading.dataset, folder / "out", DatasetOrigin("fuzz"))
    assert load_dataset(folder / "out") == saved
    for image in saved.images:
        for instance in image.objects:
            for part in instance.parts:
                assert decode_mask(part.mask).shape == (image.height, image.width)


def check_records(case: bytes, folder: Path) -> str:
    """Both modes agree; every record is a question or listed; what is read can be written and imported."""
    path = folder / "qa_pairs.json"
    path.write_bytes(case)
    outcome = _check_questions(path, lambda: len(json.loads(case.decode("utf-8-sig"))))
    if not outcome.startswith("refused"):
        shutil.rmtree(folder / "imported", ignore_errors=True)
        summary = import_records(path, folder / "imported", invalid="collect")
        assert len(load_questions(folder / "imported").questions) == summary.num_questions
    return outcome


def _check_questions(path: Path, count_records: Callable[[], int]) -> str:
    strict = attempt(lambda: load_questions(path), path)
    lenient = attempt(lambda: load_questions(path, invalid="collect"), path)
    if isinstance(lenient, Refusal):
        assert isinstance(strict, Refusal)
        return f"refused: {lenient.reason_class}"
    assert len(lenient.questions) + len(lenient.invalid) == count_records(), "a record vanished"
    for invalid in lenient.invalid:
        f"{invalid.question_id}{invalid.reason}".encode()
    _use_questions(lenient, path.parent)
    if isinstance(strict, Refusal):
        assert lenient.invalid
        return f"{PARTLY}: {strict.reason_class}"
    assert not lenient.invalid
    assert list(strict.questions) == list(lenient.questions)
    return ACCEPTED


def _use_questions(loaded: QuestionSet, folder: Path) -> None:
    for question in loaded.questions:
        for mask in question.masks:
            assert decode_mask(mask.mask).shape == (question.height, question.width)
        record = question_to_record(question, _instance_of(question), folder)
        json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8")
        _use_image(question)


def _use_image(question: Question) -> None:
    attempt(lambda: load_image(question.image_path, question.height, question.width), question.image_path)


def _instance_of(question: Question) -> ObjectInstance:
    return ObjectInstance(question.instance_id, question.object_label, "", question.masks)


def check_own_form(case: tuple[str, bytes], folder: Path) -> str:
    """As for records, with damage in one of the four files of a data set folder."""
    name, content = case
    target = folder / "set" / name
    original = target.read_bytes()
    target.write_bytes(content)
    try:
        lines = (folder / "set" / "questions.jsonl").read_bytes().splitlines(keepends=True)
        num_lines = len(b"".join(lines).split(b"\n")) - (not lines or lines[-1].endswith(b"\n"))
        return f"{name}: {_check_questions(folder / 'set', lambda: num_lines + _num_left_out(folder / 'set'))}"
    finally:
        target.write_bytes(original)


def _num_left_out(folder: Path) -> int:
    """Records that the import left out stay listed in the data set."""
    return len(json.loads((folder / "build.json").read_bytes().decode("utf-8-sig")).get("invalid_records", []))


def check_exchange(case: bytes, folder: Path) -> str:
    """An import whose annotations beside the records are damaged."""
    record_file = folder / "images" / "published.json"
    (folder / "images" / "published.annotations.json").write_bytes(case)
    shutil.rmtree(folder / "again", ignore_errors=True)
    outcome = attempt(lambda: import_records(record_file, folder / "again"), folder / "images")
    if isinstance(outcome, Refusal):
        return f"refused: {outcome.reason_class}"
    again = attempt(lambda: load_questions(folder / "again"), folder / "again")
    # What the records do not show, such as an image file that is missing, only loading the data set finds.
    return f"imported, then refused: {again.reason_class}" if isinstance(again, Refusal) else ACCEPTED


def check_run(case: tuple[str, bytes], folder: Path) -> str:
    """Records and summary of a finished run."""
    name, content = case
    path = folder / name
    path.write_bytes(content)
    if name == "summary.json":
        summary = attempt(lambda: read_summary(path), path)
        if isinstance(summary, Refusal):
            return f"{name}: refused: {summary.reason_class}"
        json.dumps(summary_to_json(summary), ensure_ascii=False).encode("utf-8")
        return f"{name}: {ACCEPTED}"
    records = attempt(lambda: read_records(path), path)
    if isinstance(records, Refusal):
        return f"{name}: refused: {records.reason_class}"
    metric_ratios(records, unsupported_capabilities(records))
    for record in records:
        record_to_line(record).encode("utf-8")
        for rle in record.segmentation.masks if record.segmentation else ():
            assert decode_mask(rle).shape == (rle.height, rle.width)
    return f"{name}: {ACCEPTED}"


def check_segmentation(case: tuple[object, Any, Any], folder: Path) -> str:
    """Whatever is read is a mask of the image's size that every operation of the codec agrees on."""
    segmentation, height, width = case
    outcome = attempt(lambda: rle_from_coco(segmentation, height, width, str(WHERE)), WHERE)
    if isinstance(outcome, Refusal):
        return f"refused: {outcome.reason_class}"
    rle: RLE = outcome
    assert (rle.height, rle.width) == (height, width)
    if height * width <= MAX_DECODED:
        mask = decode_mask(rle)
        rows, columns = np.nonzero(mask)
        assert rle_area(rle) == mask.sum()
        assert np.array_equal(decode_mask(union_masks([rle, rle])), mask)
        assert intersection_area(rle, rle) == mask.sum()
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) if mask.any() else (0, 0, 0, 0)
        assert rle_bbox(rle) == box
    return ACCEPTED


def check_image_file(case: tuple[str, bytes], folder: Path) -> str:
    """Header and pixels of a picture."""
    name, content = case
    path = folder / f"ä 漢 {name}"
    path.write_bytes(content)
    size = attempt(lambda: image_size(path), path)
    if isinstance(size, Refusal):
        return f"refused: {size.reason_class}"
    check_image(path, *size)
    pixels = attempt(lambda: load_image(path, *size), path)
    if isinstance(pixels, Refusal):
        return f"header read, pixels refused: {pixels.reason_class}"
    assert pixels.shape == (*size, 3)
    assert pixels.dtype == np.uint8
    return ACCEPTED


def _prepare_coco(folder: Path) -> None:
    worlds.write_images(folder)


def _prepare_sources(folder: Path) -> None:
    worlds.write_images(folder)
    for name in ("train2017/000000391895.jpg", "n02100735_1234.JPEG", "n02814533_77.JPEG"):
        save_image(folder / name)


def _prepare_run(folder: Path) -> None:
    worlds.write_images(folder)
    path = folder / "qa_pairs.json"
    path.write_text(json.dumps(worlds.record_document()))
    generate = "identification"
    flags = ["--model", "random", "--questions", str(path), "--output", str(folder / "valid"), "--generate", generate]
    validate(flags)


@st.composite
def _own_files(draw: st.DrawFn, folder: Path) -> tuple[str, bytes]:
    name = draw(st.sampled_from(worlds.OWN_FILES))
    content = (folder / name).read_bytes()
    if not name.endswith(".jsonl"):
        return name, draw(mutations.damaged_json(json.loads(content)))
    return name, draw(_damaged_lines(content))


@st.composite
def _damaged_lines(draw: st.DrawFn, content: bytes) -> bytes:
    lines = content.splitlines()
    place = draw(st.integers(0, len(lines) - 1))
    lines[place] = draw(mutations.damaged_json(json.loads(lines[place])))
    if draw(st.integers(0, 5)) == 0:
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from((b"", b"\xff", b"[]", b"null", lines[0]))))
    return b"\n".join(lines) + draw(st.sampled_from((b"\n", b"\n", b"", b"\r\n")))


@st.composite
def _run_files(draw: st.DrawFn, folder: Path) -> tuple[str, bytes]:
    name = draw(st.sampled_from(("records.jsonl", "records.jsonl", "summary.json")))
    content = (folder / name).read_bytes()
    if name == "summary.json":
        return name, draw(mutations.damaged_json(json.loads(content)))
    return name, draw(_damaged_lines(content))


@st.composite
def _masks(draw: st.DrawFn) -> tuple[object, Any, Any]:
    size: tuple[Any, Any] = (worlds.HEIGHT, worlds.WIDTH)
    segmentation = draw(mutations.segmentations(worlds.valid_segmentations(), size))
    if draw(st.integers(0, 5)) == 0:
        size = draw(
            st.sampled_from(((10**9, 10**9), (0, 5), (-3, 4), (2**16, 2**16), ("4", 4), (1, 1), (3.0, 2), (True, 1)))
        )
        if draw(st.booleans()) and isinstance(segmentation, dict):
            segmentation = segmentation | {"size": list(size)}
    return segmentation, *size


@st.composite
def _image_files(draw: st.DrawFn) -> tuple[str, bytes]:
    contents = worlds.image_contents()
    name = draw(st.sampled_from(sorted(contents)))
    if name.endswith(".png") and draw(st.integers(0, 4)) == 0:
        sides = st.sampled_from((0, 1, 31, 33, 20_000, 2**16, 2**31 - 1, 2**32 - 1))
        return name, worlds.claim_size(contents[name], draw(sides), draw(sides))
    if draw(st.integers(0, 9)) == 0:
        return name, contents[name]
    return name, draw(mutations.damaged_bytes(contents[name]))


def _source(name: str, document: dict[str, Any], read: Callable[[CocoConfig], SourceReading]) -> Reader:
    return Reader(name, mutations.damaged_json(document), _prepare_sources, partial(check_source, read))


def _mat_content(folder: Path) -> bytes:
    parts = [("head", (2, 2, 3, 3)), ("lfuleg", (4, 9, 2, 6)), ("wheel_1", None)]
    return save_mat(
        folder / "2008_000008.mat", [("dog", (1, 1, 12, 16), parts), ("car", (16, 2, 9, 9), [])]
    ).read_bytes()


def make_readers(folder: Path) -> tuple[Reader, ...]:
    """All readers. `folder` gets the valid files that some strategies damage."""
    worlds.write_own_form(folder / "own")
    _prepare_run(folder / "run")
    sidecar = json.loads((folder / "own" / "images" / "published.annotations.json").read_bytes())
    return (
        _source("COCO annotations", worlds.coco_document(), read_coco),
        _source("PACO", paco_file(), read_paco),
        _source("PartImageNet", part_imagenet_file(), read_part_imagenet),
        Reader("Pascal-Part", mutations.damaged_bytes(_mat_content(folder)), _prepare_coco, check_mat),
        Reader("published records", mutations.damaged_json(worlds.record_document()), _prepare_coco, check_records),
        Reader("own form", _own_files(folder / "own" / "set"), worlds.write_own_form, check_own_form),
        Reader("export's annotations", mutations.damaged_json(sidecar), worlds.write_own_form, check_exchange),
        Reader("run", _run_files(folder / "run" / "valid"), _prepare_coco, check_run),
        Reader("segmentations", _masks(), _prepare_coco, check_segmentation),
        Reader("image files", _image_files(), _prepare_coco, check_image_file),
    )
