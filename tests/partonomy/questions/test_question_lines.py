"""Lines of questions are what Python's own JSON writes, whatever the words."""

import json
import sys
from pathlib import Path

import pytest

from partonomy.datasets.question_file import ENCODER, question_to_line
from partonomy.structures import CharSpan, Choice, ObjectChoice, ObjectQuestion, Question, QuestionType

WORDS = ("wheel", 'the "left" wing', "back\\slash/", "tab\tnew\nline\rbell\b\f", "Flügel 漢字 🙂", "\x00\x1f\x7f\u2028")


def test_texts_are_written_as_by_json() -> None:
    letters = "".join(chr(code) for code in range(0x3000) if not 0xD800 <= code < 0xE000)
    for value in (*WORDS, letters, chr(sys.maxunicode), [1, -5, 2**63, True, False, None], {"a": [], "b": {}}):
        assert ENCODER.encode(value).decode() == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("word", WORDS)
def test_a_line_has_all_that_is_asked(word: str) -> None:
    choice = Choice(f"It has {word}.", (word,), (CharSpan(7, 7 + len(word)),), True)
    question = Question(
        "3:part_to_whole", QuestionType.PART_TO_WHOLE, 3, 5, Path("a.png"), 4, 6, "car", f"What {word}?", (choice,), (),
        ObjectQuestion("What is it?", (ObjectChoice("It is a car.", "car", True),)), (1, 2, 3, 4),
    )  # fmt: skip
    line = question_to_line(question)
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "question_id": "3:part_to_whole",
        "question_type": "part_to_whole",
        "image_id": 3,
        "instance_id": 5,
        "question": f"What {word}?",
        "choices": [
            {"text": choice.text, "parts": [word], "spans": [[7, 7 + len(word)]], "is_correct": True},
        ],
        "mask_ids": [],
        "box": [1, 2, 3, 4],
        "object_question": {
            "question": "What is it?",
            "choices": [{"text": "It is a car.", "label": "car", "is_correct": True}],
        },
    }
