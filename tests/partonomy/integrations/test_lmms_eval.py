"""The exported folder as lmms-eval would use it: YAML with !function, includes, JSON lines, functions, sums."""

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from partonomy.__main__ import main
from partonomy.benchmarks.partonomy.steps import ChoiceProtocol
from partonomy.benchmarks.partonomy.task import PartonomyOptions, PartonomyTask
from partonomy.datasets.store import load_questions
from partonomy.integrations.lmms_eval.task_functions import mean_over_images, process_masks, ratio, read_masks
from partonomy.masks import encode_mask, rle_to_json
from partonomy.models.bounds import OracleModel
from partonomy.models.contract import Gold, Hint, Role, Turn
from partonomy.structures import QuestionType
from tests.partonomy.conftest import write_questions
from tests.partonomy.running import make_config, run_model
from tests.partonomy.tiny_world import make_dataset, make_image, make_instance

TYPES = (QuestionType.POSITIVE_WITH_LABEL, QuestionType.WHOLE_TO_PART)
Doc = dict[str, Any]


def read_task(folder: Path, name: str) -> dict[str, Any]:
    """Read a task as lmms-eval does: `!function` resolved in the folder's own modules, the included file below it."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: find_function(folder, str(node.value)))
    config = yaml.load((folder / name).read_text(encoding="utf-8"), Loader=Loader)  # noqa: S506  a SafeLoader
    if "include" in config:
        config = read_task(folder, config.pop("include")) | config
    return config


def find_function(folder: Path, name: str) -> Callable[..., Any]:
    """The function `module.name` of the folder."""
    module_name, function = name.split(".")
    spec = importlib.util.spec_from_file_location(module_name, folder / f"{module_name}.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)


def read_docs(task: dict[str, Any]) -> list[Doc]:
    """The documents that `datasets.load_dataset("json", data_files=...)` would give."""
    assert task["dataset_path"] == "json"
    lines = Path(task["dataset_kwargs"]["data_files"][task["test_split"]]).read_text(encoding="utf-8").splitlines()
    docs = [json.loads(line) for line in lines]
    assert len({tuple((key, type(value)) for key, value in doc.items()) for doc in docs}) == 1  # one Arrow schema
    return docs


def evaluate(task: dict[str, Any], answer: Callable[[Doc], str]) -> dict[str, float]:
    """What lmms-eval reports for a model that answers so."""
    collected: dict[str, list[Any]] = {entry["metric"]: [] for entry in task["metric_list"]}
    for doc in read_docs(task):
        assert task["doc_to_text"](doc)
        results = task["process_results"](doc, [answer(doc).strip()])
        assert set(results) == set(collected)
        for name, value in results.items():
            collected[name].append(json.loads(json.dumps(value)))
    return {entry["metric"]: entry["aggregation"](collected[entry["metric"]]) for entry in task["metric_list"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The export of four images with two types of questions."""
    questions = write_questions(tmp_path, TYPES)
    assert main(["export-lmms-eval", str(questions), "--output", str(tmp_path / "tasks")]) == 0
    return tmp_path / "tasks"


def test_groups_name_every_task(folder: Path) -> None:
    groups = {name: read_task(folder, f"partonomy{name}.yaml") for name in ("", "_choices", "_masks")}
    assert groups[""]["task"] == ["partonomy_choices", "partonomy_masks"]
    assert groups["_choices"]["task"] == [
        "partonomy_positive_with_label",
        "partonomy_whole_to_part",
        "partonomy_whole_to_part_object",
    ]
    assert groups["_masks"]["task"] == ["partonomy_positive_with_label_masks", "partonomy_whole_to_part_masks"]
    listed = {name for group in groups.values() for name in (group["group"], *group["task"])}
    assert listed == {path.stem for path in folder.glob("*.yaml")}
    for name in groups["_choices"]["task"] + groups["_masks"]["task"]:
        task = read_task(folder, f"{name}.yaml")
        assert (task["task"], task["output_type"]) == (name, "generate_until")
        assert task["generation_kwargs"]["do_sample"] is False
        assert len(read_docs(task)) == 4


def test_image_and_prompt(folder: Path) -> None:
    task = read_task(folder, "partonomy_whole_to_part.yaml")
    doc = read_docs(task)[0]
    (image,) = task["doc_to_visual"](doc)
    assert (image.mode, image.size) == ("RGB", (32, 24))
    lines = task["doc_to_text"](doc).split("\n")
    assert lines[:2] == ["Question: What is the object in the image?", "Answer: It is a seaplane."]
    assert lines[2].startswith("Question: What visible parts")
    assert [line[:3] for line in lines[3:8]] == ["A. ", "B. ", "C. ", "D. ", "E. "]
    letter = task["doc_to_target"](doc)
    assert f"{letter}. It has wheel." in lines
    first = read_docs(read_task(folder, "partonomy_positive_with_label.yaml"))[0]
    assert first["prompt"].startswith("What visible parts")  # a single question is unchanged


@pytest.mark.parametrize("question_type", TYPES)
def test_chat_models_read_the_turns_of_a_listwise_run(tmp_path: Path, question_type: QuestionType) -> None:
    class Listener(OracleModel):
        """Keeps the conversations that it is asked."""

        def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
            heard.append(tuple(Turn(turn.role, turn.text) for turn in turns))
            return super().reply(image, turns)

    heard: list[tuple[Turn, ...]] = []
    questions, folder = write_questions(tmp_path, (question_type,)), tmp_path / "tasks"
    options = PartonomyOptions(choice_protocol=ChoiceProtocol.LISTWISE)
    config = make_config(questions, tmp_path / "run", options=options)
    run_model(config, Listener())
    assert main(["export-lmms-eval", str(questions), "--output", str(folder), "--seed", str(config.seed)]) == 0
    asked = []
    for name in (f"partonomy_{question_type.value}.yaml", f"partonomy_{question_type.value}_object.yaml"):
        if not (folder / name).exists():
            continue
        task = read_task(folder, name)
        assert task["generation_kwargs"]["max_new_tokens"] == PartonomyTask.MAX_NEW_TOKENS
        for doc in read_docs(task):
            messages = task["doc_to_messages"](doc)
            image, *first = messages[0]["content"]
            assert image["type"] == "image"
            np.testing.assert_array_equal(np.array(image["url"]), np.array(task["doc_to_visual"](doc)[0]))
            contents = [first, *(message["content"] for message in messages[1:])]
            assert all([part["type"] for part in content] == ["text"] for content in contents)
            texts = [content[0]["text"] for content in contents]
            asked.append(tuple(Turn(Role(m["role"]), text) for m, text in zip(messages, texts, strict=True)))
    assert len(asked) == (8 if question_type.is_part_whole else 4)
    assert sorted(asked, key=repr) == sorted(heard, key=repr)


def test_a_mask_task_asks_after_the_correct_answer(folder: Path) -> None:
    task = read_task(folder, "partonomy_positive_with_label_masks.yaml")
    doc = read_docs(task)[0]
    messages = task["doc_to_messages"](doc)
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == [{"type": "text", "text": "It has wheel."}]
    assert messages[2]["content"][0]["text"].startswith("Segment these parts of the object, in this order: wheel.")


@pytest.mark.parametrize("name", ["partonomy_positive_with_label", "partonomy_whole_to_part_object"])
def test_right_wrong_and_unusable_choices(folder: Path, name: str) -> None:
    task = read_task(folder, f"{name}.yaml")
    right = evaluate(task, task["doc_to_target"])
    assert set(right.values()) == {1.0, 0.0}
    assert right["unusable_replies"] == 0.0
    refused = evaluate(task, lambda doc: "I'm sorry, I can't.")
    assert refused["unusable_replies"] == 1.0
    assert {value for metric, value in refused.items() if metric != "unusable_replies"} == {0.0}
    by_text = evaluate(task, lambda doc: doc["choices"][doc["correct_position"]])
    assert by_text == right


def test_true_masks_score_one_and_part_of_them_less(folder: Path) -> None:
    task = read_task(folder, "partonomy_positive_with_label_masks.yaml")
    right = evaluate(task, task["doc_to_target"])
    assert right == {"giou_micro_paired": 1.0, "giou_macro_paired": 1.0, "ciou_paired": 1.0, "missing_masks": 0.0}
    first_only = evaluate(task, lambda doc: json.dumps({"masks": doc["masks"][:1]}))
    # The images have 1, 2, 3 and 4 parts.
    assert first_only["giou_micro_paired"] == pytest.approx(4 / 10)
    assert first_only["giou_macro_paired"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert first_only["missing_masks"] == pytest.approx(6 / 10)
    # wheel, wing, tail fin and door have 16, 20, 24 and 28 pixels; the images name the first 1, 2, 3 and 4 of them:
    # 16 + 36 + 60 + 88 = 200 in all. Their first in the alphabet: wheel 16, wheel 16, tail fin 24, door 28.
    assert first_only["ciou_paired"] == pytest.approx((16 + 16 + 24 + 28) / 200)


def test_numbers_are_those_of_validate_partonomy(folder: Path, tmp_path: Path) -> None:
    class Shifted(OracleModel):
        """Every mask two columns to the right."""

        def segment(self, *arguments: Any) -> np.ndarray:
            masks = super().segment(*arguments)
            return np.concatenate([np.zeros_like(masks[..., :2]), masks[..., :-2]], axis=-1)

    questions = tmp_path / "test_qa_pairs.json"
    summary = run_model(make_config(questions, tmp_path / "run"), Shifted())
    model = Shifted()
    by_id = {question.question_id: question for question in load_questions(questions).questions}

    def answer(doc: Doc) -> str:
        question = by_id[doc["question_id"]]
        gold = Gold(None, masks=tuple(part.mask for part in question.masks))
        model.prepare(Hint(question.question_id, 0, gold))
        image = np.zeros((question.height, question.width, 3), dtype=np.uint8)
        masks = model.segment(image, (), "", question.correct_choice.part_spans)
        return "```json\n" + json.dumps([rle_to_json(encode_mask(mask)) for mask in masks]) + "\n```"

    for question_type in TYPES:
        numbers = evaluate(read_task(folder, f"partonomy_{question_type.value}_masks.yaml"), answer)
        metrics = summary.groups[question_type.value].metrics
        for name in ("giou_micro_paired", "giou_macro_paired", "ciou_paired"):
            value = metrics[name].value
            assert value is not None
            assert 0 < value < 1
            assert numbers[name] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "no masks here",
        "{",
        '{"masks": 7}',
        '{"masks": [7, null, {"size": [24, 32]}, {"size": [9, 9], "counts": "0"}]}',
        '{"masks": [{"size": [24, 32], "counts": "broken code"}]}',
        '{"other": []}',
        "[" * 100_000 + "]" * 100_000,
    ],
)
def test_unreadable_masks_score_zero_and_raise_nothing(folder: Path, reply: str) -> None:
    doc = read_docs(read_task(folder, "partonomy_positive_with_label_masks.yaml"))[2]
    results = process_masks(doc, [reply])
    assert results["giou_micro_paired"]["numerator"] == 0.0
    assert results["missing_masks"]["numerator"] == results["missing_masks"]["denominator"] == 3.0
    assert process_masks(doc, []) == process_masks(doc, [""])


def test_masks_are_found_in_surrounding_words() -> None:
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 1:3] = True
    code = encode_mask(mask)
    text = f"Here you are: {json.dumps({'masks': [rle_to_json(code)]})} Anything else?"
    assert read_masks(text, 3, 4) == [code]
    assert read_masks(text, 3, 5) == [None]


def test_sums() -> None:
    items = [
        {"image_id": 1.0, "numerator": 1.0, "denominator": 1.0},
        {"image_id": 1.0, "numerator": 0.0, "denominator": 3.0},
        {"image_id": 2.0, "numerator": 1.0, "denominator": 2.0},
    ]
    assert ratio(items) == pytest.approx(2 / 6)
    assert mean_over_images(items) == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert ratio([]) == mean_over_images([]) == 0.0


def test_a_marked_object_is_drawn(tmp_path: Path) -> None:
    from partonomy.integrations.lmms_eval.task_functions import doc_to_visual

    image = make_image(1, make_instance(1, "jet", ("wing", "cockpit")))
    make_dataset(tmp_path, [image])
    doc = {"image_path": str(tmp_path / "1.png"), "height": 16, "width": 20, "box": [4, 4, 6, 6]}
    plain, marked = (np.array(doc_to_visual(doc | {"box": box})[0]) for box in ([], doc["box"]))
    assert (plain == (90, 120, 30)).all()
    assert (marked[3, 4:10] == (255, 0, 0)).all()


def test_an_export_is_not_overwritten_unasked(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "data" / "partonomy_whole_to_part.jsonl").read_bytes()
    command = ["export-lmms-eval", str(tmp_path / "test_qa_pairs.json"), "--output", str(folder)]
    assert main(command) == 1
    assert "is not empty" in capsys.readouterr().err
    (folder / "partonomy_stale.yaml").write_text("task: partonomy_stale\n")
    assert main([*command, "--overwrite"]) == 0
    assert (folder / "data" / "partonomy_whole_to_part.jsonl").read_bytes() == before
    assert not (folder / "partonomy_stale.yaml").exists()
    assert main([*command, "--overwrite", "--seed", "1"]) == 0
    assert (folder / "data" / "partonomy_whole_to_part.jsonl").read_bytes() != before
