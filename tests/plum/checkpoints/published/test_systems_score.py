"""A published checkpoint, from its folder to its rows: convert, the benchmarks' commands, tables."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from partonomy.__main__ import main as partonomy
from partonomy.harness.summary import Summary
from partonomy.masks import decode_mask as decode_rle
from partonomy.reporting.loaded_run import AnyRun, load_run
from partonomy.structures import QuestionType
from plum.cli.main import main as plum
from plum.data.miniature.writer import write_miniature
from tests.partonomy.conftest import write_questions
from tests.plum.checkpoints.published.published_systems import (
    SYSTEM_PROMPT,
    Original,
    OriginalPlum,
    decode_mask,
    encode_image,
    fast_ids,
    finish_mask,
    make_glamm,
    make_lisa,
    make_m2sa,
    make_plum,
    newer_slow_ids,
    run_llava,
    seg_queries,
    slow_ids,
    write_system,
)
from validate_partonomy import main as validate

NUM_IMAGES, SIZE = 6, 64
TYPES = (QuestionType.IDENTIFICATION_WITH_LABEL, QuestionType.WHOLE_TO_PART)
FLAGS = ("--device", "cpu", "--max_new_tokens", "4")
BENCHMARKS = {
    "refcoco": ("giou", ("--mode", "forced", "--wording", "lisa")),
    "reasonseg": ("giou", ("--mode", "generated")),
    "mmr": ("giou", ()),
}
"""Headline and flags, so that both given answers and own ones are asked for."""


@dataclass(frozen=True)
class System:
    """How a system is written, converted and told from the others."""

    make: Callable[[], Original]
    convert: tuple[str, ...]
    note: str
    legacy: bool | None = None


SYSTEMS = {
    "lisa_many": System(make_lisa, ("--targets", "many"), "carry [SEG] after each phrase"),
    "lisa_single": System(make_lisa, (), "one [SEG]"),
    "m2sa": System(make_m2sa, (), "carry [SEG] after each phrase"),
    "glamm": System(make_glamm, (), "<p>", legacy=False),
    "plum": System(make_plum, (), ""),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions of one image, and the miniature of the downloads."""
    folder = tmp_path_factory.mktemp("scored")
    write_miniature(folder / "dataset", NUM_IMAGES, SIZE)
    write_questions(folder, TYPES, num_images=2)
    return folder


def run_benchmark(name: str, model: Path, data: Path, output: Path, flags: tuple[str, ...]) -> AnyRun:
    words = [name, "--root", str(data / "dataset"), "--split", "val", "--checkpoint", str(model)]
    assert plum(["validate", *words, "--output", str(output), "--limit", "2", *FLAGS, *flags]) == 0
    return load_run(output)


def check(summary: Summary, metric: str, note: str) -> None:
    """Every item was scored, and the way of marking phrases is said."""
    assert summary.num_failed == 0, summary.reasons
    for group in summary.groups.values():
        if group.num_expected:
            value = group.metrics[metric].value
            assert value is not None
            assert 0 <= value <= 1
    marks = summary.provenance["answer_marks"]
    assert note in marks["note"]
    assert bool(marks["note"]) is bool(note)
    assert marks["has_mask_per_phrase"] is (note != "one [SEG]")


@pytest.mark.parametrize("name", SYSTEMS)
def test_from_the_published_folder_to_the_tables(data: Path, tmp_path: Path, name: str) -> None:
    system = SYSTEMS[name]
    original = system.make()
    source, clip = write_system(tmp_path, original, system.legacy)
    model, runs = tmp_path / "model", tmp_path / "runs"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert plum(["convert", str(source), str(model), "--clip", str(clip), *system.convert]) == 0
        words = ["--model", "plum", "--checkpoint", str(model), "--questions", str(data / "test_qa_pairs.json")]
        validate([*words, "--output", str(runs / "core"), *FLAGS])
        own = load_run(runs / "core")
        found = {"core": own}
        for benchmark, (_, flags) in BENCHMARKS.items():
            found[benchmark] = run_benchmark(benchmark, model, data, runs / benchmark, flags)
        for run, table in (("core", "2"), ("core", "3"), ("reasonseg", "4"), ("mmr", "mmr2"), ("refcoco", "mmr3")):
            assert partonomy(["tables", str(runs / run), "--table", table, "--commands"]) == 0
    check(own.summary, "parts_accuracy", system.note)
    for benchmark, (metric, _) in BENCHMARKS.items():
        check(found[benchmark].summary, metric, system.note)
    text = printed.getvalue()
    assert text.count("model (core)") + text.count("plum (core)") >= 2
    masks = [mask for run in found.values() for record in run.records for mask in record.masks()]
    areas = np.array([decode_rle(mask).mean() for mask in masks])
    assert ((areas > 0) & (areas < 1)).any(), "masks of something, but not of everything"
    if name != "lisa_single":
        check_masks(original, own, data, name)


def check_masks(original: Original, run: AnyRun, data: Path, name: str) -> None:
    """The masks of the run's record are those of the authors' code for the same question and answer."""
    for record in run.records:
        if record.group != QuestionType.IDENTIFICATION_WITH_LABEL:
            continue
        image = np.asarray(Image.open(data / Path(record.image_path).name).convert("RGB"))
        embedding = encode_image(original, image)
        expected = [
            finish_mask(decode_mask(embedding, query), image) for query in queries(original, record, image, name)
        ]
        ours = [decode_rle(mask) for mask in record.segmentation.masks]
        assert len(ours) == len(expected) == len(record.true_parts)
        assert all(np.array_equal(mask, other) for mask, other in zip(ours, expected, strict=True))


def queries(original: Original, record: object, image: np.ndarray, name: str) -> list[torch.Tensor]:
    """The original's queries of the parts of the right answer."""
    answer = record.parts_choice.texts[record.parts_choice.correct_index]  # type: ignore[attr-defined]
    parts = [part.label for part in record.true_parts]  # type: ignore[attr-defined]
    marked = answer
    for part in parts:
        new = {"glamm": f"<p> {part} </p> [SEG]", "plum": part}.get(name, f"{part} [SEG]")
        marked = marked.replace(part, new)
    opening = (
        "The <im_start><image><im_end> provides an overview of the picture."
        if name == "glamm"
        else ("<im_start><image><im_end>")
    )
    text = f"{SYSTEM_PROMPT}USER: {opening}\n{record.prompt} ASSISTANT: {marked}</s>"  # type: ignore[attr-defined]
    encode = {"glamm": newer_slow_ids, "plum": fast_ids}.get(name, slow_ids)
    computed = run_llava(original, image, [encode(chunk, original.tokens) for chunk in text.split("<image>")])
    if name != "plum":
        return list(seg_queries(original, computed))
    assert isinstance(original, OriginalPlum)
    with torch.no_grad():
        projected = original.text_fc(computed.states)
    return [projected[span].mean(0) for span in phrase_tokens(computed.ids, parts)]


def phrase_tokens(ids: list[int], parts: list[str]) -> list[slice]:
    """The places of the parts' tokens in the answer, in reading order."""
    places, start = [], 0
    for part in parts:
        wanted = fast_ids(part, {})
        start = next(at for at in range(start, len(ids)) if ids[at : at + len(wanted)] == wanted)
        places.append(slice(start, start + len(wanted)))
        start += len(wanted)
    return places
