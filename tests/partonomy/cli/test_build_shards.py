"""`python -m partonomy build` in shards: the files of one process, whatever the source, the settings and the shards."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.datasets.concept_graph import build_concept_graph
from partonomy.datasets.store import DatasetOrigin, save_dataset
from partonomy.locks import lock_folder
from partonomy.questions import fits as fits_module
from partonomy.questions import generator, sharded_build
from partonomy.questions.answer_mutator import MutationMode
from partonomy.questions.build_config import QuestionBuildConfig
from partonomy.questions.fits import fit_object_sampler, fit_questions, load_fits, save_fits
from partonomy.questions.image_questions import QuestionMaker
from partonomy.structures import AnnotatedImage
from tests.partonomy.cli.build_inputs import source_flags, write_inputs
from tests.partonomy.datasets.published_files import box_rle, save_image, write_json
from tests.partonomy.tiny_world import make_vehicles

ROOT = Path(__file__).resolve().parents[3]
FAST = ["--embedding_model", "char-ngram-tfidf"]


def read_all(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def run(*command: str) -> None:
    assert main(["build", *command]) == 0


def build_in_shards(flags: list[str], output: Path, count: int) -> dict[str, bytes]:
    """Prepare, ask in shards from the last to the first, merge."""
    to = ["--output", str(output)]
    run(*flags, *to, "--prepare")
    for number in range(count, 0, -1):
        run(*flags, *to, "--shard", f"{number}/{count}")
    assert not (output / "build.json").exists()
    run(*flags, *to, "--merge")
    return read_all(output)


def build_whole(flags: list[str], output: Path) -> dict[str, bytes]:
    run(*flags, "--output", str(output))
    return read_all(output)


@pytest.fixture
def vehicles(tmp_path: Path) -> list[str]:
    """Flags that build from a data set folder of 24 images."""
    save_dataset(make_vehicles(tmp_path / "images"), tmp_path / "source", DatasetOrigin("test"))
    return ["--source", "dataset", "--images", str(tmp_path / "source"), *FAST]


@pytest.mark.parametrize("mutation", ["paper", "authors", "balanced"])
@pytest.mark.parametrize("mark_objects", ["same_class", "ambiguous"])
def test_every_mutation_and_mark_rule(vehicles: list[str], tmp_path: Path, mutation: str, mark_objects: str) -> None:
    flags = [*vehicles, "--mutation", mutation, "--mark_objects", mark_objects, "--seed", "3"]
    whole = build_whole(flags, tmp_path / "whole")
    assert whole["questions.jsonl"].count(b"\n") > 200
    for count in (1, 2, 3):
        assert build_in_shards(flags, tmp_path / str(count), count) == whole


@pytest.mark.parametrize("source", ["coco", "paco", "part_imagenet", "pascal_part", "partonomy_core"])
def test_every_source_also_with_an_empty_shard(tmp_path: Path, source: str) -> None:
    """The inputs have one to three images, the shards are four."""
    flags = ["--source", source, "--images", str(tmp_path / "core")]
    if source == "partonomy_core":
        write_core(tmp_path / "core")
    else:
        write_inputs(tmp_path)
        flags = source_flags(source, tmp_path)
    whole = build_whole([*flags, *FAST], tmp_path / "whole")
    assert json.loads(whole["build.json"])["num_images"] in (1, 2, 3)
    assert build_in_shards([*flags, *FAST], tmp_path / "shards", 4) == whole


def write_core(folder: Path) -> None:
    """Three images of the published form, one of them asked about twice."""
    records = []
    for image, name in (("a.jpg", "hull"), ("b.jpg", "oar"), ("c.jpg", "mast"), ("a.jpg", "hull")):
        save_image(folder / "images" / image)
        choices = [[name], ["something else"]]
        records.append(
            {
                "image_path": f"images/{image}",
                "image_label": f"boats--{name} boat",
                "question": "What visible parts does the object in the image have?",
                "question_type": "identification",
                "answer_choices": [f"The object has the following visible parts: {names[0]}." for names in choices],
                "answer_types": ["correct", "incorrect"],
                "answer_parts": choices,
                "segmentations": {name: [box_rle((1, 1, 8, 8))]},
                "object_question": None,
                "object_answer_choices": None,
                "object_answer_types": None,
                "object_answer_classes": None,
            }
        )
    write_json(folder / "partonomy_qa_pairs.json", records)


@pytest.mark.parametrize("mutation", ["paper", "balanced"])
def test_the_drawn_source_is_drawn_in_shards_or_at_once(tmp_path: Path, mutation: str) -> None:
    flags = ["--source", "synthetic", "--images", "7", "--image_size", "64", "--mutation", mutation, *FAST]
    whole = build_whole(flags, tmp_path / "whole")
    assert len([name for name in whole if name.startswith("images/")]) == 7
    assert build_in_shards(flags, tmp_path / "at_once", 2) == whole
    for number in (1, 2, 3):
        run(*flags, "--output", str(tmp_path / "drawn"), "--prepare", "--shard", f"{number}/3")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "drawn" / "images").iterdir()}
    assert len(before) == 7
    assert build_in_shards(flags, tmp_path / "drawn", 2) == whole
    # Not drawn again by --prepare.
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "drawn" / "images").iterdir()} == before


def test_left_out_annotations_and_marked_images_are_those_of_one_process(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    path = tmp_path / "paco_lvis_v1_train.json"
    content = json.loads(path.read_text())
    content["annotations"][3]["obj_ann_id"] = 77
    write_json(path, content)
    flags = [*source_flags("paco", tmp_path), *FAST, "--invalid", "collect", "--store_marked_images"]
    whole = build_whole(flags, tmp_path / "whole")
    assert json.loads(whole["build.json"])["left_out_annotations"] != []
    assert "marked_images/391895.png" in whole
    assert build_in_shards(flags, tmp_path / "shards", 2) == whole


@pytest.mark.parametrize("mutation", list(MutationMode))
def test_fits_are_read_as_they_were_written(tmp_path: Path, mutation: MutationMode) -> None:
    dataset = make_vehicles(tmp_path / "images")
    config = QuestionBuildConfig(mutation=mutation, embedding_model="char-ngram-tfidf")
    graph = build_concept_graph(dataset)
    fitted = fit_questions(dataset, graph, config, fit_object_sampler(graph, config))
    save_fits(fitted, tmp_path)
    read = load_fits(tmp_path)
    assert read.graph == graph
    assert read.synonyms == fitted.synonyms
    assert read.hashes() == fitted.hashes()
    assert (read.balanced is None) == (mutation is not MutationMode.BALANCED)
    if read.balanced is not None and fitted.balanced is not None:
        assert read.balanced.models == fitted.balanced.models
        assert list(read.balanced.models) == list(fitted.balanced.models)
        assert read.balanced.right.weights == fitted.balanced.right.weights
        for kind, model in fitted.balanced.models.items():
            assert list(read.balanced.models[kind].root_odds) == list(model.root_odds)
            assert list(read.balanced.models[kind].few) == list(model.few)


class PowerCut(BaseException):
    """Ends a process in the middle of its work."""


@pytest.mark.usefixtures("short_steps")
def test_a_shard_that_was_stopped_goes_on(
    vehicles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = build_whole(vehicles, tmp_path / "whole")
    to = [*vehicles, "--output", str(tmp_path / "out")]
    run(*to, "--prepare")
    asked = stop_after(monkeypatch, 7)
    with pytest.raises(PowerCut):
        main(["build", *to, "--shard", "2/2"])
    monkeypatch.undo()
    del asked[:]
    asked = stop_after(monkeypatch, 100)
    with caplog.at_level("INFO"):
        run(*to, "--shard", "2/2")
    assert "resuming after 6 images" in caplog.text
    assert asked == list(range(19, 25))  # the second half is 13 to 24
    run(*to, "--shard", "2/2")  # nothing to do
    assert len(asked) == 6
    run(*to, "--shard", "1/2")
    run(*to, "--merge")
    assert read_all(tmp_path / "out") == whole


@pytest.fixture
def short_steps() -> None:
    """Steps of two images instead of 64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "NUM_IMAGES_PER_STEP", 2)
        yield


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    """Let the maker stop at the image after `count`; returns the ids of the images asked about."""
    asked: list[int] = []
    original = QuestionMaker.make

    def make(self: QuestionMaker, image: AnnotatedImage, types: object) -> object:
        if len(asked) == count:
            raise PowerCut
        asked.append(image.image_id)
        return original(self, image, types)  # type: ignore[arg-type]

    monkeypatch.setattr(QuestionMaker, "make", make)
    return asked


def test_a_shard_fits_nothing_and_holds_only_its_images(
    vehicles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = [*vehicles, "--output", str(tmp_path / "out")]
    run(*to, "--prepare")
    asked = stop_after(monkeypatch, 100)

    def refuse(*_: object) -> None:
        raise AssertionError("fitted again")

    for name in ("fit_part_sampler", "embed_texts", "fit_balanced"):
        monkeypatch.setattr(fits_module, name, refuse)
    run(*to, "--shard", "2/3")
    assert asked == list(range(9, 17))


Change = Callable[[Path], None]


def drop_shard(folder: Path) -> None:
    (folder / "shards" / "questions-2-of-3.json").unlink()


def mix_counts(folder: Path) -> None:
    (folder / "shards" / "questions-1-of-3.json").rename(folder / "shards" / "questions-1-of-2.json")


def change_questions(folder: Path) -> None:
    path = folder / "shards" / "questions-3-of-3" / "questions.jsonl"
    path.write_bytes(path.read_bytes()[:-1])


def change_settings(folder: Path) -> None:
    path = folder / "shards" / "questions-3-of-3.json"
    content = json.loads(path.read_text())
    content["settings"]["config"]["seed"] = 9
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_shard, "shards are missing (questions): 2/3; run each with --shard"),
        (mix_counts, "holds shards of 2 and of 3 (questions)"),
        (change_questions, "not the file that the shard wrote"),
        (change_settings, "questions-3-of-3.json: made with other settings (config.seed: 9 there, 0 now)"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(
    vehicles: list[str], tmp_path: Path, change: Change, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    to = [*vehicles, "--output", str(tmp_path / "out")]
    run(*to, "--prepare")
    for number in (1, 2, 3):
        run(*to, "--shard", f"{number}/3")
    change(tmp_path / "out")
    assert main(["build", *to, "--merge"]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "build.json").exists()
    assert not (tmp_path / "out" / "questions.jsonl").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shard", "1/2"], "run this command once with --prepare"),
        (["--merge"], "run this command once with --prepare"),
        (["--shard", "3/2"], "--shard '3/2': give NUMBER/COUNT"),
        (["--merge", "--shard", "1/2"], "--merge is a separate step"),
        (["--prepare", "--shard", "1/2"], "--prepare --shard draws images, which --source dataset does not"),
    ],
)
def test_steps_out_of_order(
    vehicles: list[str], tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", *vehicles, "--output", str(tmp_path / "out"), *flags]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        (["--seed", "1"], "seed: 0 there, 1 now"),
        (["--mutation", "paper"], "mutation: balanced there, paper now"),
        (["--question_types", "identification"], "question_types: "),
    ],
)
@pytest.mark.parametrize("step", [["--shard", "1/2"], ["--merge"], ["--prepare"]])
def test_other_settings_than_those_prepared_are_refused(
    *,
    vehicles: list[str],
    tmp_path: Path,
    flags: list[str],
    key: str,
    step: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    to = [*vehicles, "--output", str(tmp_path / "out")]
    run(*to, "--prepare")
    assert main(["build", *to, *flags, *step]) == 1
    message = capsys.readouterr().err
    assert "prepared with other settings" in message
    assert key in message


def test_other_versions_and_annotations_than_those_prepared_are_refused(
    vehicles: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    to = [*vehicles, "--output", str(tmp_path / "out")]
    run(*to, "--prepare")
    with monkeypatch.context() as patch:
        patch.setattr(fits_module.np, "__version__", "0.1")
        assert main(["build", *to, "--shard", "1/2"]) == 1
    assert "numpy: 2" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(sharded_build, "load_templates", lambda path: "x" * 5000)
        assert main(["build", *to, "--shard", "1/2"]) == 1
    message = capsys.readouterr().err
    assert "templates: " in message
    assert len(message) < 1000
    path = tmp_path / "out" / "annotations.json"
    path.write_bytes(path.read_bytes() + b"\n")
    assert main(["build", *to, "--shard", "1/2"]) == 1
    assert "(annotations: " in capsys.readouterr().err


def test_a_drawn_shard_of_another_seed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--source", "synthetic", "--images", "4", "--image_size", "64", *FAST, "--output", str(tmp_path / "out")]
    run(*flags, "--prepare", "--shard", "1/2")
    assert main(["build", *flags, "--prepare"]) == 1
    assert "shards are missing (drawn): 2/2" in capsys.readouterr().err
    run(*flags, "--seed", "1", "--prepare", "--shard", "2/2")
    assert main(["build", *flags, "--prepare"]) == 1
    assert "drawn-2-of-2.json: made with other settings (seed: 1 there, 0 now)" in capsys.readouterr().err


def test_overwriting(vehicles: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    to = [*vehicles, "--output", str(out)]
    run(*to, "--prepare")
    run(*to, "--shard", "1/2")
    assert main(["build", *to]) == 1
    assert "holds an unfinished sharded build or import" in capsys.readouterr().err
    changed = [*vehicles, "--seed", "5"]
    run(*changed, "--output", str(out), "--prepare", "--overwrite")
    assert not (out / "shards" / "questions-1-of-2.json").exists()
    for number in (1, 2):
        run(*changed, "--output", str(out), "--shard", f"{number}/2")
    run(*changed, "--output", str(out), "--merge")
    whole = build_whole(changed, tmp_path / "whole")
    assert read_all(out) == whole
    run(*changed, "--output", str(out), "--merge")  # nothing to do
    run(*to, "--prepare", "--overwrite")
    run(*to, "--overwrite")  # one process again
    assert read_all(out) == build_whole(vehicles, tmp_path / "first")


@pytest.mark.parametrize(
    ("name", "step"), [(".lock", []), (".lock", ["--prepare"]), ("shards/questions-1-of-2.lock", ["--shard", "1/2"])]
)
def test_a_second_process_is_refused(
    vehicles: list[str], tmp_path: Path, name: str, step: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    to = [*vehicles, "--output", str(tmp_path / "out")]
    if "--shard" in step:
        run(*to, "--prepare")
    path = tmp_path / "out" / name
    with lock_folder(path.parent, path.name):
        assert main(["build", *to, *step]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"another process is writing here and holds {path}" in line
    assert not path.exists()
    run(*to, *step)


def test_shards_that_are_being_written_are_not_deleted(
    vehicles: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = [*vehicles, "--output", str(tmp_path / "out")]
    run(*to, "--prepare")
    with lock_folder(tmp_path / "out" / "shards", "questions-1-of-2.lock"):
        assert main(["build", *to, "--overwrite"]) == 1
    assert "holds" in capsys.readouterr().err
    assert (tmp_path / "out" / "shards" / "prepared.json").exists()


HOLD = """
import sys, time
from pathlib import Path
from partonomy.locks import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.distributed
def test_a_killed_process_leaves_no_stale_lock(vehicles: list[str], tmp_path: Path) -> None:
    to = [*vehicles, "--output", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert main(["build", *to]) == 1
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    assert (tmp_path / "out" / ".lock").exists()
    run(*to)
    assert not (tmp_path / "out" / ".lock").exists()
