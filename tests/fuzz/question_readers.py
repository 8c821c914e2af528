"""Readers of questions and runs: published records, the project's own form, exports, results."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from partonomy.benchmarks.partonomy.metrics import metric_ratios, unsupported_capabilities
from partonomy.benchmarks.partonomy.records import QuestionRecord
from partonomy.datasets.published_records import question_to_record
from partonomy.datasets.record_exchange import import_records
from partonomy.datasets.store import load_questions
from partonomy.files import json_bytes
from partonomy.harness.records import RecordCodec, record_to_line
from partonomy.harness.summary import read_summary, summary_to_json
from partonomy.images import load_image
from partonomy.masks import decode_mask
from partonomy.structures import ObjectInstance, Question, QuestionSet
from tests.fuzz import mutations, worlds
from tests.fuzz.outcomes import ACCEPTED, PARTLY, Refusal, attempt
from tests.fuzz.trial import Reader
from validate_partonomy import main as validate


def make_question_readers(folder: Path) -> tuple[Reader, ...]:
    """`folder` gets the valid files that some strategies damage."""
    worlds.write_own_form(folder / "own")
    _prepare_run(folder / "run")
    sidecar = json.loads((folder / "own" / "images" / "published.annotations.json").read_bytes())
    published = mutations.damaged_json(worlds.record_document())
    return (
        Reader("published records", published, worlds.write_images, check_records),
        Reader("own form", _own_files(folder / "own" / "set"), worlds.write_own_form, check_own_form),
        Reader("export's annotations", mutations.damaged_json(sidecar), worlds.write_own_form, check_exchange),
        Reader("run", _run_files(folder / "run" / "valid"), worlds.write_images, check_run),
    )


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
        json_bytes(summary_to_json(summary)).decode("utf-8")
        return f"{name}: {ACCEPTED}"
    records = attempt(lambda: RecordCodec(QuestionRecord).read(path), path)
    if isinstance(records, Refusal):
        return f"{name}: refused: {records.reason_class}"
    metric_ratios(records, unsupported_capabilities(records))
    for record in records:
        record_to_line(record).encode("utf-8")
        for rle in record.segmentation.masks if record.segmentation else ():
            assert decode_mask(rle).shape == (rle.height, rle.width)
    return f"{name}: {ACCEPTED}"


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
    return name, draw(mutations.damaged_lines(content))


@st.composite
def _run_files(draw: st.DrawFn, folder: Path) -> tuple[str, bytes]:
    name = draw(st.sampled_from(("records.jsonl", "records.jsonl", "summary.json")))
    content = (folder / name).read_bytes()
    if name == "summary.json":
        return name, draw(mutations.damaged_json(json.loads(content)))
    return name, draw(mutations.damaged_lines(content))
