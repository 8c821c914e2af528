import json
from pathlib import Path

import pytest

from partonomy.benchmarks import gqa
from partonomy.benchmarks.gqa import gqa_prompt, gqa_ratios, gqa_score, read_gqa
from partonomy.benchmarks.records import AnswerRecord
from partonomy.benchmarks.vqa import VqaProtocol
from tests.partonomy.benchmarks.vqa_world import write_gqa

OFFICIAL, COMPAT = VqaProtocol.LLAVA_OFFICIAL, VqaProtocol.PARTONOMY_COMPAT


def test_items_and_prompts(tmp_path: Path) -> None:
    write_gqa(tmp_path)
    items = read_gqa(tmp_path, "testdev", OFFICIAL)
    assert [(item.item_id, item.image_id, item.group) for item in items] == [
        ("201640614", "n1", "open"),
        ("201640615", "n1", "binary"),
        ("201640616", "n2", "open"),
    ]
    assert items[0].answers == ("woman",)
    expected = "Who is wearing the dress?{}Answer the question using a single word or phrase."
    assert gqa_prompt(items[0], OFFICIAL) == expected.format("\n")
    assert gqa_prompt(items[0], COMPAT) == expected.format(" ")


def test_scores_by_protocol(tmp_path: Path) -> None:
    write_gqa(tmp_path)
    (item, *_) = read_gqa(tmp_path, "testdev", OFFICIAL)
    assert gqa_score("Woman.", item, OFFICIAL) == 1.0
    assert gqa_score("the woman", item, OFFICIAL) == 0.0  # nothing but periods and case is mended
    (item, *_) = read_gqa(tmp_path, "testdev", COMPAT)
    assert item.answers == ("woman", "The woman is wearing a dress.")
    assert gqa_score("woman", item, COMPAT) == pytest.approx(1 / 6)
    assert gqa_score("It is the woman in red", item, COMPAT) == 1.0


def test_the_compatible_protocol_asks_the_first_questions_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gqa.NUM_COMPAT_QUESTIONS == 5000
    monkeypatch.setattr(gqa, "NUM_COMPAT_QUESTIONS", 2)
    write_gqa(tmp_path)
    assert [item.item_id for item in read_gqa(tmp_path, "testdev", COMPAT)] == ["201640614", "201640615"]
    assert len(read_gqa(tmp_path, "testdev", OFFICIAL)) == 3


def test_accuracy_by_kind_of_question() -> None:
    scores = (("open", 1.0), ("open", 0.0), ("open", 0.0), ("binary", 1.0))
    records = [
        AnswerRecord(
            item_id=str(n), image_id=str(n % 2), image_path="", group=group, prompt="?", truths=("x",), score=score
        )
        for n, (group, score) in enumerate(scores)
    ]
    values = {name: (ratio.value, ratio.count) for name, ratio in gqa_ratios(records, OFFICIAL).items()}
    assert values == {"accuracy": (0.5, 4), "accuracy_binary": (1.0, 1), "accuracy_open": (pytest.approx(1 / 3), 3)}


def test_broken_files_are_named(tmp_path: Path) -> None:
    write_gqa(tmp_path)
    path = tmp_path / "questions" / "testdev_balanced_questions.json"
    content = json.loads(path.read_text())
    del content["201640615"]["answer"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="testdev_balanced_questions.json, question '201640615'.*answer"):
        read_gqa(tmp_path, "testdev", OFFICIAL)
    with pytest.raises(FileNotFoundError, match="val_balanced_questions.json"):
        read_gqa(tmp_path, "val", OFFICIAL)
    path.write_text("{}")
    with pytest.raises(ValueError, match="contains no questions"):
        read_gqa(tmp_path, "testdev", OFFICIAL)
