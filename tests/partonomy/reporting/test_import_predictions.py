"""Predictions of other programs become runs; what was exported comes back with the same metrics."""

import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from partonomy.__main__ import main
from partonomy.benchmarks.imported import Entry
from partonomy.benchmarks.mmr import MultiTargetItem, MultiTargetOptions, MultiTargetTask
from partonomy.benchmarks.partonomy.task import PartonomyOptions
from partonomy.datasets.sources.mmr import Granularity, GroundedAnswer, MmrTarget
from partonomy.harness.asking import answer_items
from partonomy.harness.import_predictions import MISSING_REASON
from partonomy.harness.ranks import deal_batches
from partonomy.harness.run_folder import read_config
from partonomy.harness.summary import Summary, read_summary
from partonomy.masks import decode_mask, encode_mask, rle_from_coco
from partonomy.models.bounds import RandomModel
from partonomy.models.contract import ChoiceScore, Generation, Turn
from partonomy.reporting.loaded_run import AnyRun, load_run
from partonomy.structures import CharSpan, QuestionType
from tests.partonomy.benchmarks.test_gcg import gcg_content
from tests.partonomy.benchmarks.test_gcg import write as write_gcg
from tests.partonomy.benchmarks.vqa_world import draw
from tests.partonomy.conftest import HEIGHT, WIDTH, write_questions
from tests.partonomy.questions.mixed_parts.pair_world import draw_dataset, store_dataset
from tests.partonomy.reporting.conftest import SETTINGS, World, run_model
from tests.partonomy.running import make_config
from tests.partonomy.running import run_model as ask_model
from tests.readme_commands import bash_commands, parse_command
from validate_partonomy import main as validate

Change = Callable[[list[dict[str, Any]]], None]
PAGE = Path(__file__).parents[3] / "docs" / "import_predictions.md"


def export(run: Path, target: Path) -> list[dict[str, Any]]:
    assert main(["export-predictions", str(run), "--output", str(target)]) == 0
    entries: list[dict[str, Any]] = json.loads(target.read_text())
    return entries


def import_file(questions: Path, file: Path, output: Path, *flags: str) -> Summary:
    words = ["import-predictions", str(file), "--questions", str(questions), "--output", str(output), "--name", "other"]
    assert main([*words, *flags]) == 0
    return read_summary(output / "summary.json")


def write(path: Path, entries: Sequence[object]) -> Path:
    path.write_text(json.dumps(entries))
    return path


def metrics_of(summary: Summary) -> dict[str, Any]:
    return {name: (entry.num_failed, dict(entry.metrics)) for name, entry in summary.groups.items()}


class Uneven(RandomModel):
    """Ties, three selectors that differ, fewer masks than phrases, repeated phrases, errors and refusals."""

    name = "uneven"

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.num_asked = 0

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        self.num_asked += 1
        if self.num_asked % 7 == 0:
            raise ValueError("no memory for it")
        values = self._generator.integers(1, 4, (len(choices), 4))
        return [ChoiceScore(-float(a), int(b), -float(c), int(d)) for a, b, c, d in values]

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        masks = super().segment(image, turns, answer, spans)
        return masks[: max(0, len(masks) - self.num_asked % 3)]

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        if self.num_asked % 5 == 0:
            raise ValueError("a long answer")
        spans = (CharSpan(0, 4), CharSpan(9, 13), CharSpan(5, 8), CharSpan(14, 18))
        masks = super().segment(image, turns, "", spans[:3])
        return Generation("door hub door door", spans, masks, (0.5, 0.25, 1.0, 0.0))


def test_partonomy_comes_back_with_the_same_metrics(question_file: Path, tmp_path: Path) -> None:
    config = make_config(question_file, tmp_path / "run", "uneven")
    original = ask_model(config, Uneven(3))
    assert 0 < original.num_failed < original.num_expected
    export(tmp_path / "run", tmp_path / "predictions.json")
    summary = import_file(question_file, tmp_path / "predictions.json", tmp_path / "back", "--seed", "3")
    assert metrics_of(summary) == metrics_of(original)
    assert summary.reasons == original.reasons
    assert summary.notes == original.notes, "the ties"
    first, second = load_run(tmp_path / "run"), load_run(tmp_path / "back")
    for before, after in zip(first.records, second.records, strict=True):
        for key in ("item_id", "status", "reason", "segmentation", "generation", "parts_choice", "object_choice"):
            assert getattr(before, key) == getattr(after, key), (before.item_id, key)


@pytest.mark.parametrize("model", ["oracle", "random"])
def test_bounds_and_options_come_back(question_file: Path, tmp_path: Path, model: str) -> None:
    flags = ["--question_types", "part_to_whole,positive", "--generate", "none", "--choice_protocol", "listwise"]
    validate(["--model", model, "--questions", str(question_file), "--output", str(tmp_path / "run"), *flags])
    export(tmp_path / "run", tmp_path / "predictions.json")
    options = json.dumps({"question_types": "part_to_whole,positive"})
    summary = import_file(question_file, tmp_path / "predictions.json", tmp_path / "back", "--options", options)
    assert metrics_of(summary) == metrics_of(read_summary(tmp_path / "run" / "summary.json"))
    chosen = read_config(tmp_path / "back").read_options()
    assert chosen == PartonomyOptions("positive,part_to_whole", "none", choice_protocol="as given")


def import_benchmark(run: AnyRun, root: Path, tmp_path: Path) -> AnyRun:
    export(run.path, tmp_path / "predictions.json")
    words = ["import-predictions", str(tmp_path / "predictions.json"), "--benchmark", run.config.benchmark]
    words += ["--root", str(root), "--split", run.summary.split, "--output", str(tmp_path / "back"), "--name", "other"]
    options = json.loads((run.path / "config.json").read_text())["options"]
    assert main([*words, "--options", json.dumps(options)]) == 0
    return load_run(tmp_path / "back")


@pytest.mark.parametrize("name", SETTINGS)
def test_every_benchmark_comes_back(benchmarks: World, tmp_path: Path, name: str) -> None:
    run = benchmarks.pairs[name].worse
    back = import_benchmark(run, benchmarks.root(SETTINGS[name][0]), tmp_path)
    assert metrics_of(back.summary) == metrics_of(run.summary)
    assert [record.quality for record in back.records] == [record.quality for record in run.records]
    assert back.summary.protocol == f"{run.summary.protocol}, imported"


@pytest.mark.parametrize("model", ["oracle", "random", "empty"])
def test_phrases_come_back_with_their_labels(tmp_path: Path, model: str) -> None:
    root = write_gcg(tmp_path / "gcg", gcg_content())
    run = run_model(root, tmp_path / "run", model, "gcg", "--embedding_model", "char-ngram-tfidf")
    assert metrics_of(import_benchmark(run, root, tmp_path).summary) == metrics_of(run.summary)


@pytest.mark.parametrize("model", ["oracle", "random"])
def test_pairs_come_back_with_their_images(tmp_path: Path, model: str) -> None:
    dataset = store_dataset(draw_dataset("own", 30, tmp_path), tmp_path / "own")
    root = tmp_path / "pairs"
    flags = ["--num_train", "0", "--num_val", "0", "--num_test", "9", "--shares", "0,0,1", "--min_pixels", "1"]
    assert main(["build-mixedparts", str(dataset), "--output", str(root), *flags]) == 0
    run = run_model(root, tmp_path / "run", model, "mixedparts", "--embedding_model", "char-ngram-tfidf")
    assert metrics_of(import_benchmark(run, root, tmp_path).summary) == metrics_of(run.summary)


def test_a_model_that_refuses_comes_back_without_numbers(benchmarks: World, tmp_path: Path) -> None:
    run = run_model(benchmarks.root("gqa"), tmp_path / "run", "random", "gqa")
    back = import_benchmark(run, benchmarks.root("gqa"), tmp_path)
    assert {record.status for record in back.records} == {"unsupported"}
    assert back.summary.metrics["accuracy"].value is None


class Marking(RandomModel):
    """A model with [SEG] tokens, which is asked about other words than one without."""

    name, protocol_note, has_mask_per_phrase = "marking", "answers carry [SEG]", True

    def score_marked_choices(
        self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str], phrases: Sequence[Sequence[CharSpan]]
    ) -> list[ChoiceScore]:
        return self.score_choices(image, turns, choices)


def test_masks_of_a_model_with_marks_come_back(tmp_path: Path) -> None:
    """Of three targets, the answer names none and marks two: only a model with marks is asked about them."""
    task = make_mmr_task(tmp_path)
    item = task.items[0]
    assert ([span is None for span in item.answer.spans], len(item.answer.marked_words)) == ([True] * 3, 3)
    (record,) = answer_items(Marking(0), task, deal_batches(task.items), lambda one: True)
    assert sum(target.is_predicted for target in record.targets) == 2
    entry = json.loads(json.dumps(task.prediction(record, None, tmp_path)))
    back = task.import_record(item, Entry(entry, tmp_path, task.answers_of(entry)))
    assert back.targets == record.targets
    for number in (1, 3):
        entry["masks"] = [entry["masks"][0]] * number
        with pytest.raises(ValueError, match=f"'masks' has {number} masks, and 2 phrases were given to segment"):
            task.import_record(item, Entry(entry, tmp_path, task.answers_of(entry)))


def make_mmr_task(folder: Path) -> MultiTargetTask:
    draw(folder / "0.png", 0, (WIDTH, HEIGHT))
    targets = []
    for number in range(3):
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[4 * number : 4 * number + 4] = True
        targets.append(MmrTarget(f"thing {number}", encode_mask(mask), Granularity.OBJECT))
    answer = GroundedAnswer("It is this and that.", (None,) * 3, (CharSpan(6, 10), None, CharSpan(15, 19)))
    item = MultiTargetItem("0", "0", folder / "0.png", HEIGHT, WIDTH, "What is it?", True, tuple(targets), answer)
    return MultiTargetTask("mmr", "val", MultiTargetOptions(), (item,))


def test_two_imported_models_are_two_rows_of_table_5(
    benchmarks: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for name in ("PixelLM-13B", "GSVA"):
        for benchmark in ("textvqa", "gqa"):
            run, output = benchmarks.pairs[benchmark].oracle, tmp_path / f"{name}_{benchmark}"
            export(run.path, tmp_path / f"{output.name}.json")
            words = ["import-predictions", str(tmp_path / f"{output.name}.json"), "--benchmark", benchmark]
            words += ["--root", str(benchmarks.root(benchmark)), "--output", str(output), "--name", name]
            assert main(words) == 0
            folders.append(str(output))
    capsys.readouterr()
    assert main(["tables", *folders, "--table", "5"]) == 0
    rows = [line for line in capsys.readouterr().out.split("[runs]")[1].splitlines() if ", imported  " in line]
    assert [row.split("  ")[0] for row in rows] == ["PixelLM-13B, imported", "GSVA, imported"]


def test_a_folder_and_what_could_not_be_read_come_back(question_file: Path, tmp_path: Path) -> None:
    records = json.loads(question_file.read_text())
    records[3]["answer_types"] = ["incorrect"] * 5
    broken = write(question_file, records)
    for questions, name in ((broken, "file"), (tmp_path / "set", "folder")):
        if name == "folder":
            words = ["import", "--questions", str(broken), "--output", str(questions), "--invalid", "collect"]
            assert main(words) == 0
        validate(["--model", "random", "--questions", str(questions), "--output", str(tmp_path / name)])
        export(tmp_path / name, tmp_path / f"{name}.json")
        summary = import_file(questions, tmp_path / f"{name}.json", tmp_path / f"{name}_back")
        assert metrics_of(summary) == metrics_of(read_summary(tmp_path / name / "summary.json"))
        assert summary.num_failed == 1


# ---- the forms of an entry


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The right answers to the questions of `question_file`, as exported."""
    folder = tmp_path_factory.mktemp("oracle")
    questions = write_questions(folder, tuple(QuestionType))
    validate(["--model", "oracle", "--questions", str(questions), "--output", str(folder / "run")])
    export(folder / "run", folder / "all.json")
    return (folder / "all.json").read_text()


@pytest.fixture
def oracle(exported: str) -> list[dict[str, Any]]:
    """The entries of the right answers, without other keys than an outsider would write."""
    wanted = ("question_id", "predicted_answer", "predicted_object_answer", "predicted_segmentations")
    return [{key: entry[key] for key in wanted} for entry in json.loads(exported)]


def headline(summary: Summary) -> tuple[float | None, float | None]:
    metrics = summary.groups["identification"].metrics
    return metrics["giou_micro_paired"].value, metrics["parts_accuracy"].value


def number_choices(entries: list[dict[str, Any]]) -> None:
    for index, entry in enumerate(entries):
        entry["predicted_answer"] = (index // 10) % 5  # the position of the right answer, see `make_record`


def shout_choices(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        entry["predicted_answer"] = f" {entry['predicted_answer'].upper().removesuffix('.')}"


def score_choices(entries: list[dict[str, Any]]) -> None:
    number_choices(entries)
    for entry in entries:
        right = entry.pop("predicted_answer")
        entry["answer_scores"] = [-0.5 if index == right else -1 - index for index in range(5)]


def change_codes(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            masks = entry["predicted_segmentations"]
            entry["predicted_segmentations"] = {label: change(own[0]) for label, own in masks.items()}

    return apply


def uncompress(code: dict[str, Any]) -> dict[str, Any]:
    pixels = decode_mask(rle_from_coco(code, HEIGHT, WIDTH, "")).ravel(order="F").astype(int)
    ends = np.flatnonzero(np.diff(pixels, prepend=0)).tolist()
    return {"size": code["size"], "counts": np.diff([0, *ends, pixels.size]).tolist()}


def list_masks(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        masks = entry["predicted_segmentations"]
        entry["predicted_segmentations"] = [code for own in masks.values() for code in own]


def halve_masks(entries: list[dict[str, Any]]) -> None:
    """Give each part as two codes, which are one mask."""
    for entry in entries:
        for own in entry["predicted_segmentations"].values():
            mask = decode_mask(rle_from_coco(own[0], HEIGHT, WIDTH, ""))
            upper = mask & (np.arange(HEIGHT)[:, None] < np.flatnonzero(mask.any(axis=1)).mean())
            own[:] = [encode(upper), encode(mask & ~upper)]


def encode(mask: np.ndarray) -> dict[str, Any]:
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}


FORMS: dict[str, Change] = {
    "as exported": lambda entries: [entry.update(generated_by="us", note=1) for entry in entries] and None,
    "index": number_choices,
    "other case": shout_choices,
    "scores": score_choices,
    "one code": change_codes(lambda code: code),
    "text of bytes": change_codes(lambda code: [code | {"counts": str(code["counts"].encode())}]),
    "runs": change_codes(uncompress),
    "list": list_masks,
    "two codes": halve_masks,
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_entries(question_file: Path, tmp_path: Path, oracle: list[dict[str, Any]], form: str) -> None:
    FORMS[form](oracle)
    summary = import_file(question_file, write(tmp_path / "file.json", oracle), tmp_path / "back")
    assert headline(summary) == (1.0, 1.0)
    assert metrics_of(summary)["whole_to_part"][1]["objects_accuracy"].value == 1.0
    lines = tmp_path / "file.jsonl"
    lines.write_text("".join(json.dumps(entry) + "\n" for entry in oracle[::-1]))
    assert metrics_of(import_file(question_file, lines, tmp_path / "lines")) == metrics_of(summary)


def test_scores_serve_every_selector(question_file: Path, tmp_path: Path, oracle: list[dict[str, Any]]) -> None:
    keys = ("answer_log_prob", "answer_tokens", "conversation_log_prob", "conversation_tokens")
    rows = [(-1.0, 1, -9.0, 1), (-2.0, 4, -9.0, 1), (-9.0, 1, -1.0, 1), (-9.0, 1, -9.0, 1), (-9.0, 1, -9.0, 1)]
    for entry in oracle:
        del entry["predicted_answer"]
        entry["answer_scores"] = [dict(zip(keys, row, strict=True)) for row in rows]
    import_file(question_file, write(tmp_path / "file.json", oracle), tmp_path / "back")
    selections = {(one.sequence, one.answer_mean, one.conversation_mean) for one in selections_of(tmp_path / "back")}
    assert selections == {(0, 1, 2)}
    for entry in oracle:
        entry["answer_scores"] = [row[0] for row in rows[:3]] + [-1.0, -9.0]
    import_file(question_file, write(tmp_path / "file.json", oracle), tmp_path / "plain")
    for one in selections_of(tmp_path / "plain"):
        assert one.tied.sequence == one.tied.answer_mean == one.tied.conversation_mean == (0, 3)


def test_phrases_of_own_answers_are_found_in_the_text(
    question_file: Path, tmp_path: Path, oracle: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    masks = [np.arange(WIDTH)[None, :] < np.full((HEIGHT, 1), width) for width in (1, 2, 3)]
    first, second, third = map(encode, masks)
    own = {
        "generated_text": "A hub, a door, a hub.",
        "generated_segmentations": {"hub": [first, third], "door": second},
    }
    oracle[0] |= own
    import_file(question_file, write(tmp_path / "file.json", oracle), tmp_path / "back")
    read = load_run(tmp_path / "back").records[0].generation
    assert [(span.start, span.end) for span in read.spans] == [(2, 5), (9, 13), (17, 20)]
    assert [int(decode_mask(mask).sum()) // HEIGHT for mask in read.masks.masks] == [1, 2, 3]
    assert read.confidences == (1.0, 1.0, 1.0)
    oracle[0]["generated_segmentations"]["hub"].append(first)
    words = ["import-predictions", str(write(tmp_path / "file.json", oracle)), "--questions", str(question_file)]
    assert main([*words, "--name", "other", "--output", str(tmp_path / "refused")]) == 1
    assert "record 0 ('record-000000'): 'generated_segmentations' has 3 masks of 'hub'" in capsys.readouterr().err


def selections_of(run: Path) -> list[Any]:
    return [record.parts_choice.selection for record in load_run(run).records]


def write_png(path: Path, mask: np.ndarray, mode: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    if mode == "P":
        image = Image.fromarray(mask.astype(np.uint8))
        image.putpalette([0, 0, 0, 0, 0, 0] + [7] * 762)
    elif mode == "RGBA":
        image = Image.merge("RGBA", [image, image, image, Image.new("L", image.size, 255)])
    elif mode == "I;16":
        image = Image.fromarray(mask.astype(np.uint16))
    else:
        image = image.convert(mode)
    assert image.mode == mode
    image.save(path)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "I;16"])
def test_masks_in_folders(question_file: Path, tmp_path: Path, oracle: list[dict[str, Any]], mode: str) -> None:
    for entry in oracle:
        for label, codes in entry["predicted_segmentations"].items():
            name = f"masks/{entry['question_id']}/{label}.png"
            write_png(tmp_path / "there" / name, decode_mask(rle_from_coco(codes[0], HEIGHT, WIDTH, "")), mode)
            entry["predicted_segmentations"][label] = name
    summary = import_file(question_file, write(tmp_path / "there" / "file.json", oracle), tmp_path / "back")
    assert headline(summary) == (1.0, 1.0)


# ---- what counts, and what is refused


def test_missing_entries_count_as_failed(
    question_file: Path, tmp_path: Path, oracle: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    summary = import_file(question_file, write(tmp_path / "file.json", oracle[:30]), tmp_path / "back")
    printed = capsys.readouterr().out
    assert "30 predictions imported; 10 items have none and count as failed" in printed
    assert "Answers in the file: choices, masks\n" in printed
    assert headline(summary) == (pytest.approx(6 / 10), 0.75), "the fourth image has four parts"
    assert summary.reasons == {MISSING_REASON: 10}


def test_what_the_file_lacks_is_unsupported(question_file: Path, tmp_path: Path, oracle: list[dict[str, Any]]) -> None:
    for entry in oracle:
        del entry["predicted_answer"], entry["predicted_object_answer"]
    summary = import_file(question_file, write(tmp_path / "masks.json", oracle), tmp_path / "masks")
    assert headline(summary) == (1.0, None)
    assert summary.num_failed == 0


def test_what_only_some_entries_lack_counts_as_wrong(
    question_file: Path, tmp_path: Path, oracle: list[dict[str, Any]]
) -> None:
    del oracle[0]["predicted_answer"]
    oracle[10]["predicted_segmentations"] = None
    oracle[20]["predicted_segmentations"] = {}
    first = next(iter(oracle[30]["predicted_segmentations"]))
    oracle[30]["predicted_segmentations"][first] = None
    summary = import_file(question_file, write(tmp_path / "file.json", oracle), tmp_path / "back")
    assert headline(summary) == (pytest.approx((1 + 3) / 10), 0.75)
    assert summary.reasons == {
        "choice of parts only: the file has none": 1,
        "masks only: the file has no 'predicted_segmentations'": 1,
    }
    masks = load_run(tmp_path / "back").records[30].segmentation
    assert [pair.iou for pair in masks.paired] == [0.0, 1.0, 1.0, 1.0]
    assert len(masks.masks) == 4


def test_shards_and_several_files_merge(
    question_file: Path, tmp_path: Path, oracle: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = import_file(question_file, write(tmp_path / "file.json", oracle), tmp_path / "whole")
    halves = [write(tmp_path / f"half{n}.json", oracle[20 * n : 20 * n + 20]) for n in (0, 1)]
    words = ["import-predictions", *map(str, halves), "--questions", str(question_file), "--name", "other"]
    assert main([*words, "--output", str(tmp_path / "both")]) == 0
    assert metrics_of(read_summary(tmp_path / "both" / "summary.json")) == metrics_of(whole)
    ids = {entry["question_id"]: entry for entry in oracle}
    for number in (1, 2):
        validate(["--model", "empty", "--questions", str(question_file), "--output", str(tmp_path / f"e{number}"),
                  "--shard", f"{number}/2"])  # fmt: skip
        own = [json.loads(line)["item_id"] for line in (tmp_path / f"e{number}" / "records.jsonl").open()]
        file = write(tmp_path / f"shard{number}.json", [ids[name] for name in own])
        words = ["import-predictions", str(file), "--questions", str(question_file), "--name", "other"]
        assert main([*words, "--shard", f"{number}/2", "--output", str(tmp_path / f"s{number}")]) == 0
    words = ["import-predictions", str(tmp_path / "file.json"), "--questions", str(question_file), "--name", "other"]
    assert main([*words, "--shard", "1/2", "--output", str(tmp_path / "s3")]) == 1
    assert "the id names an item of another shard of partonomy" in capsys.readouterr().err
    assert main(["merge-runs", str(tmp_path / "s1"), str(tmp_path / "s2"), "--output", str(tmp_path / "merged")]) == 0
    merged = read_summary(tmp_path / "merged" / "summary.json")
    assert metrics_of(merged) == metrics_of(whole)
    assert [Path(file["path"]).name for file in merged.config["imported"]["files"]] == ["shard1.json", "shard2.json"]


def set_value(index: int, key: str, value: object) -> Change:
    def apply(entries: list[dict[str, Any]]) -> None:
        entries[index][key] = value

    return apply


def set_mask(value: object) -> Change:
    return set_value(3, "predicted_segmentations", {"wheel": [value]})


REFUSED: dict[str, tuple[Change, str]] = {
    "unknown id": (set_value(2, "question_id", "no such"), r"record 2 \('no such'\): the id names no item"),
    "no id": (set_value(2, "question_id", None), "record 2: 'question_id' or 'item_id' is missing"),
    "twice": (set_value(9, "question_id", "record-000004"), "record 9 .*: the id occurs twice, first in record 4"),
    "an index too high": (set_value(1, "predicted_answer", 5), "record 1 .*: 'predicted_answer' is 5, and the choices"),
    "true is no index": (set_value(1, "predicted_answer", True), "record 1 .*must be the index or the text"),
    "unknown answer": (set_value(1, "predicted_answer", "It flies."), "record 1 .*: no choice has this text"),
    "number of scores": (set_value(1, "answer_scores", [-1.0] * 4), "record 1 .*one entry for each of the 5 choices"),
    "no number": (set_value(1, "answer_scores", [-1.0] * 4 + [None]), r"record 1 .*'answer_scores'\[4\] must be a log"),
    "contradiction": (
        set_value(1, "answer_scores", [-2.0, -1.0, -2.0, -2.0, -2.0]),
        "record 1 .*: 'predicted_answer' is choice 0, but choice 1 has the highest",
    ),
    "size": (
        set_mask({"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]}),
        r"record 3 .*'predicted_segmentations' of 'wheel'\[0\].*",
    ),
    "counts": (set_mask({"size": [HEIGHT, WIDTH], "counts": [7]}), r"record 3 .*of 'wheel'\[0\]"),
    "unknown part": (set_value(3, "predicted_segmentations", {"mast": []}), "record 3 .*names 'mast', and the correct"),
    "too many masks": (set_value(3, "predicted_segmentations", [None, None]), "record 3 .*has 2 masks for the parts"),
    "no file": (set_mask("masks/none.png"), "record 3 .*none.png"),
    "outside": (set_mask("../none.png"), "record 3 .*leaves the"),
    "misspelt": (
        set_value(3, "predicted_segmentation", {}),
        "record 3 .*: there is no key 'predicted_segmentation'; did you mean",
    ),
    "text": (set_value(3, "generated_text", 4), "record 3 .*: 'generated_text' must be a text"),
    "status": (set_value(3, "status", "done"), "record 3 .*: 'status' must be scored, failed or unsupported"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_broken_entries_are_refused_and_leave_nothing(  # noqa: PLR0917  (pytest passes by name)
    question_file: Path,
    tmp_path: Path,
    oracle: list[dict[str, Any]],
    case: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change, message = REFUSED[case]
    if case == "text":
        set_value(0, "generated_text", "It has a door.")(oracle)
    change(oracle)
    path = write(tmp_path / "file.json", oracle)
    words = ["import-predictions", str(path), "--questions", str(question_file), "--name", "other"]
    assert main([*words, "--output", str(tmp_path / "back")]) == 1
    error = capsys.readouterr().err
    assert re.search(f"^error: {re.escape(str(path))}: {message}", error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "back").exists() or not list((tmp_path / "back").iterdir())


def test_pngs_of_another_size_or_of_probabilities_are_refused(
    question_file: Path, tmp_path: Path, oracle: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    set_mask("mask.png")(oracle)
    path = write(tmp_path / "file.json", oracle)
    words = ["import-predictions", str(path), "--questions", str(question_file), "--name", "other"]
    for pixels, message in (
        (
            np.zeros((HEIGHT, WIDTH - 1), dtype=np.uint8),
            f"mask.png is {HEIGHT} x {WIDTH - 1}, but the image is 24 x 32",
        ),
        (np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH), "mask.png has 255 values besides 0"),
    ):
        Image.fromarray(pixels).save(tmp_path / "mask.png")
        assert main([*words, "--output", str(tmp_path / "back")]) == 1
        error = capsys.readouterr().err
        assert f"{path}: record 3 ('record-000003'): " in error
        assert message in error


def test_flags_are_checked(
    question_file: Path, tmp_path: Path, oracle: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "file.json", oracle)
    words = ["import-predictions", str(path), "--output", str(tmp_path / "back")]
    for flags, message in (
        (["--name", "other"], "name the data of partonomy with --questions"),
        (["--name", "other", "--root", "x"], "name the data of partonomy with --questions, not with --root"),
        (["--name", "plum", "--questions", str(question_file)], "--name plum is a model of this code"),
        (["--name", " ", "--questions", str(question_file)], "--name must be a non-empty string"),
        (["--name", "o", "--questions", str(question_file), "--options", "[1]"], "--options must be a JSON object"),
        (["--name", "o", "--questions", str(question_file), "--options", '{"mode": "x"}'], "has no option mode"),
    ):
        assert main([*words, *flags]) == 1
        assert message in capsys.readouterr().err
    import_file(question_file, path, tmp_path / "back")
    again = [*words, "--questions", str(question_file), "--name", "other"]
    assert main(again) == 1
    assert "is not empty; choose another --output, or pass --overwrite" in capsys.readouterr().err
    assert main([*again, "--overwrite"]) == 0
    broken = write(tmp_path / "broken.json", [entry | {"status": "?"} for entry in oracle])
    before = (tmp_path / "back" / "records.jsonl").read_bytes()
    lost = ["import-predictions", str(broken), "--questions", str(question_file), "--name", "other", "--overwrite"]
    assert main([*lost, "--output", str(tmp_path / "back")]) == 1
    assert (tmp_path / "back" / "records.jsonl").read_bytes() == before, "a broken file costs no run"
    assert not list((tmp_path / "back").glob(".imported*"))
    inside = ["import-predictions", str(write(tmp_path / "back" / "in.json", oracle)), *lost[2:]]
    assert main([*inside, "--output", str(tmp_path / "back")]) == 1
    assert "in.json lies in the output folder; choose another --output" in capsys.readouterr().err
    empty = ["import-predictions", str(write(tmp_path / "no.json", [])), "--questions", str(question_file)]
    assert main([*empty, "--name", "other", "--output", str(tmp_path / "no")]) == 1
    assert "no.json: there are no entries; docs/import_predictions.md lists the keys" in capsys.readouterr().err
    write(tmp_path / "no.json", [{"question_id": entry["question_id"], "answer": "It flies."} for entry in oracle])
    assert main([*empty, "--name", "other", "--output", str(tmp_path / "no")]) == 1
    assert "no.json: no entry has an answer; docs" in capsys.readouterr().err


# ---- where it is said


def test_the_origin_is_said_everywhere(
    question_file: Path, tmp_path: Path, oracle: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "file.json", oracle)
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    summary = import_file(question_file, path, tmp_path / "back", "--protocol", "teacher-forced spans", "--shares_mask")
    assert summary.provenance["origin"] == "imported"
    assert summary.config["imported"]["files"] == [{"path": str(path), "sha256": sha}]
    assert summary.protocol == "as given, gold first answers, imported (teacher-forced spans)"
    said = f"Imported predictions, made by another program: {path} (sha256 {sha}); teacher-forced spans"
    assert said in capsys.readouterr().out
    validate(["--model", "empty", "--questions", str(question_file), "--output", str(tmp_path / "empty")])
    both = [str(tmp_path / "back"), str(tmp_path / "empty")]
    for table in ("2", "3", "auto"):
        capsys.readouterr()
        assert main(["tables", *both, "--table", table]) == 0
        printed = capsys.readouterr().out
        assert said in printed
        assert "other, imported (back)" in printed
        assert "only the" in printed, "one mask is shared"
    assert main(["compare", *both]) == 0
    assert "A: other, imported (back)" in capsys.readouterr().out
    assert main(["report", *both[:1]]) == 0
    assert said in (tmp_path / "back" / "report.html").read_text()
    assert main(["merge-runs", *both, "--output", str(tmp_path / "mixed")]) == 1
    assert main(["merge-runs", both[0], "--output", str(tmp_path / "merged")]) == 0
    merged = read_summary(tmp_path / "merged" / "summary.json")
    assert (merged.protocol, merged.provenance["origin"]) == (summary.protocol, "imported")


def test_an_import_needs_no_images(question_file: Path, tmp_path: Path, oracle: list[dict[str, Any]]) -> None:
    for image in question_file.parent.glob("image*.png"):
        image.unlink()
    summary = import_file(question_file, write(tmp_path / "file.json", oracle), tmp_path / "back")
    assert headline(summary) == (1.0, 1.0)
    assert main(["merge-runs", str(tmp_path / "back"), "--output", str(tmp_path / "merged")]) == 0


MODEL = """
import numpy as np


def log_probability(image, question, choice):
    return -len(choice)


def segment(image, answer, part):
    return np.arange(32)[None, :] < np.full((24, 1), len(part))
"""


def test_the_example_of_the_page(question_file: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert sum(bool(line) for line in code.splitlines()) <= 20
    validate(["--model", "empty", "--questions", str(question_file), "--output", str(tmp_path / "template")])
    export(tmp_path / "template", tmp_path / "template.json")
    (tmp_path / "my_model.py").write_text(MODEL)
    (tmp_path / "fill.py").write_text(code)
    subprocess.run([sys.executable, "fill.py"], cwd=tmp_path, check=True)
    summary = import_file(question_file, tmp_path / "predictions.json", tmp_path / "back")
    assert summary.num_failed == 0
    record = load_run(tmp_path / "back").records[1]
    shortest = min(range(5), key=lambda index: len(record.parts_choice.texts[index]))
    assert record.parts_choice.selection.sequence == shortest
    widths = [int(decode_mask(mask).sum()) // 24 for mask in record.segmentation.masks]
    assert widths == [len(part.label) for part in record.true_parts]


def test_the_commands_of_the_page_are_taken_by_their_parsers() -> None:
    commands = bash_commands(PAGE.read_text())
    assert len(commands) == 4
    for command in commands:
        parse_command(shlex.split(command))


def test_the_page_names_every_key(question_file: Path, tmp_path: Path) -> None:
    validate(["--model", "empty", "--questions", str(question_file), "--output", str(tmp_path / "run")])
    published = set(json.loads(question_file.read_text())[0])
    text = PAGE.read_text()
    for key in set(export(tmp_path / "run", tmp_path / "file.json")[0]) - published:
        assert f"`{key}`" in text, key
