"""Bad input at the command line: an error that names file and record, or a counted failure that scores 0.

Shown elsewhere, below the command line: every way a record, annotation or mask can be wrong (partonomy/datasets/
test_partonomy_core.py, test_store.py, test_coco.py, partonomy/test_masks.py), random damage (fuzz/test_readers.py),
images that break between loading and scoring and models that fail (partonomy/harness/test_failures.py), damaged
training images (plum/data/test_sources.py), configurations that contradict the weights beside them
(plum/checkpoints/test_store.py).
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import train
from partonomy.__main__ import main as partonomy_main
from partonomy.harness.summary import Summary
from partonomy.structures import QuestionType
from plum.checkpoints.store import save_pretrained
from plum.cli.main import main as plum_main
from plum.training.run import build_or_load
from plum.training.run import train as train_model
from tests.partonomy.conftest import HEIGHT, WIDTH, write_questions
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import make_model
from tests.plum.training.training_world import make_config, write_inputs
from validate_partonomy import main as validate_main

ROOT = Path(__file__).resolve().parents[1]
BAD = 1
"""Position of the broken record: of type identification_with_label, one of its 4."""
BAD_TYPE = tuple(QuestionType)[BAD].value

Record = dict[str, Any]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images, one question of every type each."""
    return write_questions(tmp_path_factory.mktemp("questions"), tuple(QuestionType))


@pytest.fixture(scope="module")
def clean(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """The same questions with nothing broken."""
    return validate("random", questions, tmp_path_factory.mktemp("clean") / "run")


def validate(model: str, questions: Path, output: Path) -> Summary:
    """Ask a baseline; what it says to one question does not depend on the others."""
    summary = validate_main(["--model", model, "--questions", str(questions), "--output", str(output)])
    assert summary is not None
    return summary


def name_missing_image(record: Record, folder: Path) -> None:
    record["image_path"] = "none.png"


def leave_the_folder(record: Record, folder: Path) -> None:
    """A picture that is there, but not the record file's to name."""
    shutil.copy(folder / record["image_path"], folder.parent / "secret.png")
    record["image_path"] = "../secret.png"


def cut_image(record: Record, folder: Path) -> None:
    """A JPEG whose header is whole and whose pixels are not: only decoding finds out."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "cut.jpg", quality=95)
    content = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) * 4 // 5])
    record["image_path"] = "cut.jpg"


def replace_masks(record: Record, folder: Path) -> None:
    """Masks of another size than the image."""
    record["segmentations"] = {part: [{"size": [5, 5], "counts": [20, 5]}] for part in record["segmentations"]}


def resize_one_mask(record: Record, folder: Path) -> None:
    record["segmentations"]["wheel"] = [{"size": [5, 5], "counts": [20, 5]}]


def empty_polygon(record: Record, folder: Path) -> None:
    record["segmentations"]["wheel"] = [{"size": [HEIGHT, WIDTH], "polygon": []}]


def ask_riddle(record: Record, folder: Path) -> None:
    record["question_type"] = "riddle"


def drop_mask(record: Record, folder: Path) -> None:
    del record["segmentations"]["wheel"]


def drop_phrase(record: Record, folder: Path) -> None:
    record["answer_choices"][record["answer_types"].index("correct")] = "It has nothing to show."


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (name_missing_image, "none.png: image file not found"),
        (leave_the_folder, "'image_path' '../secret.png' leaves the image folder"),
        (cut_image, "cut.jpg: the image file is damaged"),
        (replace_masks, f"the masks of an earlier record of the image are {HEIGHT} x {WIDTH}"),
        (resize_one_mask, "mask 0 of 'wheel'"),
        (empty_polygon, "mask 0 of 'wheel': the polygon is empty"),
        (ask_riddle, "'riddle' is not a valid QuestionType"),
        (drop_mask, "part 'wheel' has no mask"),
        (drop_phrase, "the phrase 'wheel' has no occurrence of its own in the text 'It has nothing to show.'"),
    ],
)
def test_a_bad_record_is_a_listed_failure_and_disturbs_no_other(
    questions: Path, clean: Summary, tmp_path: Path, damage: Callable[[Record, Path], None], reason: str
) -> None:
    shutil.copytree(questions.parent, tmp_path / "data")
    records = json.loads(questions.read_text())
    damage(records[BAD], tmp_path / "data")
    (tmp_path / "data" / questions.name).write_text(json.dumps(records))
    broken = tmp_path / "data" / questions.name
    summary, oracle = validate("random", broken, tmp_path / "run"), validate("oracle", broken, tmp_path / "oracle")

    entries = summary.groups
    assert sum(entry.num_expected for entry in entries.values()) == len(records)
    assert all(entry.num_expected == entry.num_scored + entry.num_failed for entry in entries.values())
    (failed,) = [entry for entry in entries.values() if entry.num_failed]
    assert failed.num_failed == 1
    (listed,) = failed.reasons
    assert reason in listed
    assert f"record-{BAD:06d}" in listed or "cut.jpg" in listed or "none.png" in listed
    untouched = [name for name in clean.groups if name not in (failed.name, BAD_TYPE)]
    assert len(untouched) == len(QuestionType) - 1
    assert all(entries[name] == clean.groups[name] for name in untouched)

    # All is right but the failure: 3 of 4 questions, 9 of 1 + 2 + 3 + 4 masks. A riddle counts under its own heading.
    metrics = oracle.groups[failed.name].metrics
    is_riddle = failed.name != BAD_TYPE
    assert metrics["parts_accuracy"].value == (0 if is_riddle else pytest.approx(3 / 4))
    assert metrics["giou_micro_paired"].value == (0 if is_riddle else pytest.approx(9 / 10))
    assert not is_riddle or oracle.groups[BAD_TYPE].metrics["parts_accuracy"].value == 1

    lines = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    assert len(lines) == len(records)
    (record,) = [line for line in lines if reason in json.dumps(line, ensure_ascii=False)]
    assert record["item_id"].endswith(f"-{BAD:06d}")


def write_coco(folder: Path) -> dict[str, Any]:
    """Two photographs of a car and its parts; returns the content of the annotation file."""
    annotations = []
    for image_id in (1, 2):
        Image.new("RGB", (30, 20), (9, 90, 9)).save(folder / f"{image_id}.jpg")
        for category, name_left in enumerate((2, 10, 18)):
            polygon = [[name_left, 2, name_left + 5, 2, name_left + 5, 9]]
            number = 10 * image_id + category
            annotations.append(
                {"id": number, "image_id": image_id, "category_id": category, "segmentation": polygon, "iscrowd": False}
            )
    return {
        "images": [{"id": number, "file_name": f"{number}.jpg", "height": 20, "width": 30} for number in (1, 2)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(("door", "roof", "wheel"))],
        "annotations": annotations,
    }


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda content, folder: (folder / "2.jpg").unlink(), ("image 2", "2.jpg", "not found")),
        (
            lambda content, folder: (folder / "2.jpg").write_bytes(b"\xff\xd8\xff"),
            ("image 2", "2.jpg", "not a readable"),
        ),
        (lambda content, folder: content["images"][1].update(height=21), ("image 2", "2.jpg", "annotation 21 x 30")),
        (lambda content, folder: content["images"][1].update(file_name="../2.jpg"), ("image 2", "leaves the image")),
        (
            lambda content, folder: content["annotations"][4].update(segmentation=[]),
            ("annotation 21", "polygon is empty"),
        ),
        (
            lambda content, folder: content["annotations"][4].update(segmentation={"size": [5, 5], "counts": [25]}),
            ("annotation 21", "the mask is 5 x 5"),
        ),
        (lambda content, folder: content["annotations"][4].update(category_id=7), ("annotation 21", "category_id 7")),
    ],
)
def test_build_stops_at_a_bad_record_or_counts_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[dict[str, Any], Path], object],
    named: tuple[str, ...],
) -> None:
    content = write_coco(tmp_path)
    damage(content, tmp_path)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    flags = ["build", "--source", "coco", "--annotations", str(path), "--images", str(tmp_path), "--object_name", "car"]
    assert partonomy_main([*flags, "--output", str(tmp_path / "strict")]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {path}, ")
    assert all(word in message for word in named), message
    assert not (tmp_path / "strict" / "questions.jsonl").exists()
    assert partonomy_main([*flags, "--output", str(tmp_path / "lenient"), "--invalid", "collect"]) == 0
    printed = capsys.readouterr().out
    is_image = named[0].startswith("image")
    (left_out,) = [line for line in printed.splitlines() if line.startswith("  left out")]
    assert re.findall(r"\b2\d\b", left_out.split(":")[1]) == (["20", "21", "22"] if is_image else ["21"])
    assert named[-1] in left_out
    assert "questions about 1 images" in printed if is_image else "questions about 2 images" in printed


def test_train_names_file_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = (ROOT / "configs" / "ablations" / "base.yaml").read_text()
    path = tmp_path / "mine.yaml"
    for known, unknown in (("is_enabled:", "enabled:"), ("weight: 3", "wieght: 3"), ("num_updates:", "num_updatess:")):
        assert known in base
        path.write_text(base.replace(known, unknown))
        monkeypatch.setattr("sys.argv", ["train.py", "--config", str(path)])
        with pytest.raises(SystemExit) as stopped:
            train.main()
        assert stopped.value.code == 1
        printed = capsys.readouterr().err
        assert printed.startswith(f"train.py: error: {path}: ")
        assert printed.count("\n") == 1
        assert unknown.split(":", maxsplit=1)[0] in printed


@pytest.mark.parametrize(
    ("command", "first_line"),
    [
        (lambda flags: partonomy_main(["build", *flags]), "source: synthetic"),
        (validate_main, "model: oracle"),
    ],
)
def test_other_commands_name_file_and_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], object], first_line: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{first_line}\nsead: 3\n")
    with pytest.raises(SystemExit) as stopped:
        command([f"--config={path}", "--output", str(tmp_path / "out")])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "'sead'" in message
    assert str(path) in message
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def other_architecture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model whose configuration has one more block than its weights."""
    folder = tmp_path_factory.mktemp("saved") / "altered"
    save_pretrained(make_model(), byte_level(), folder, "")
    content = json.loads((folder / "config.json").read_text())
    content["sam"]["encoder_depth"] += 1
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_checkpoint_of_another_architecture(
    other_architecture: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--checkpoint", str(other_architecture), "--device", "cpu", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        validate_main(["--model", "plum", "--questions", str(questions), *flags])
    image = str(questions.parent / "image0.png")
    assert plum_main(["segment", "--image", image, "--question", "Which parts?", *flags]) == 1
    for message in (str(stopped.value), capsys.readouterr().err):
        assert str(other_architecture) in message
        assert "another architecture" in message
        assert "sam.encoder_depth is 3 in config.json, 2 layers in the weights" in message


def test_run_that_starts_from_another_architecture(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    save_pretrained(make_model(), byte_level(), tmp_path / "saved", "")
    config = replace(make_config(tmp_path, "run"), init_from=str(tmp_path / "saved"))
    wider = replace(config, model=replace(config.model, sam=replace(config.model.sam, decoder_mlp_dim=48)))
    with pytest.raises(ValueError, match=r"saved differs from this run's model in .*sam"):
        build_or_load(wider)


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    """A learning rate that throws the weights out of all numbers: update 1 is finite, the next forward is not."""
    write_inputs(tmp_path)
    config = replace(make_config(tmp_path, "run"), stop_after_skipped=2)
    steep = replace(config, optimizer=replace(config.optimizer, learning_rate=1e30, warmup_updates=0))
    with pytest.raises(FloatingPointError, match=r"update 3: loss is not finite, rank 0, samples .*\d.*2 updates"):
        train_model(steep)
    assert not (tmp_path / "run" / "finished.json").exists()


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there(
    questions: Path, tmp_path: Path, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(questions.parent / "image0.png")
    flags = ["--checkpoint", str(tmp_path), "--image", image, "--question", "?", "--output", str(tmp_path / "out")]
    assert plum_main(["segment", *flags, "--device", device]) == 1
    assert f"device '{device}'" in capsys.readouterr().err
