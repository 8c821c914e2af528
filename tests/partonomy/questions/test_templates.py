"""Wording."""

from pathlib import Path

import pytest

from partonomy.questions.templates import DEFAULT_TEMPLATES, Wording, load_templates, with_article
from partonomy.structures import QuestionType

TEMPLATES = load_templates()
PARTS = ("fuselage", "propeller", "tail fin")


@pytest.mark.parametrize(
    ("question_type", "question", "answer"),
    [
        (
            QuestionType.IDENTIFICATION,
            "What visible parts does the object in the image have?",
            "The object in the image has the following visible parts: fuselage, propeller, tail fin.",
        ),
        (
            QuestionType.IDENTIFICATION_WITH_LABEL,
            "What visible parts does the biplane in the image have?",
            "The biplane in the image has the following visible parts: fuselage, propeller, tail fin.",
        ),
        (
            QuestionType.POSITIVE_WITH_LABEL,
            "What visible parts does the biplane in the image have in common with an airplane?",
            "The biplane in the image has the following visible parts in common with an airplane: "
            "fuselage, propeller, tail fin.",
        ),
        (
            QuestionType.NEGATIVE_WITH_LABEL,
            "What visible parts does the biplane in the image have that an airplane does not have?",
            "The biplane in the image has the following visible parts that an airplane does not have: "
            "fuselage, propeller, tail fin.",
        ),
        (
            QuestionType.DIFFERENCE,
            "What visible parts does the object in the image have in common with an airplane but not with a drone?",
            "The object in the image has the following visible parts in common with an airplane but not with a drone: "
            "fuselage, propeller, tail fin.",
        ),
        (
            QuestionType.WHOLE_TO_PART,
            "What visible parts does the biplane in the image have?",
            "The biplane in the image has the following visible parts: fuselage, propeller, tail fin.",
        ),
        (
            QuestionType.PART_TO_WHOLE,
            "What visible parts does the object in the image have?",
            "The object in the image has the following visible parts: fuselage, propeller, tail fin.",
        ),
    ],
)
def test_questions_and_answers(question_type: QuestionType, question: str, answer: str) -> None:
    wording = Wording(question_type, "biplane", False, "airplane", "drone")
    texts = TEMPLATES.texts(wording)
    assert texts.question == question
    choice = texts.form.choice(PARTS, True)
    assert choice.text == answer
    assert tuple(answer[span.start : span.end] for span in choice.part_spans) == PARTS == choice.parts


def test_object_question_and_box() -> None:
    wording = Wording(QuestionType.PART_TO_WHOLE, "biplane", False)
    assert TEMPLATES.texts(wording).object_question == "What is the object in the image?"
    biplane, airplane = TEMPLATES.object_choices(wording, ["biplane", "airplane"])
    assert (biplane.text, biplane.is_correct) == ("The object in the image is a biplane.", True)
    assert (airplane.text, airplane.label) == ("The object in the image is an airplane.", "airplane")
    assert not airplane.is_correct
    marked = Wording(QuestionType.IDENTIFICATION_WITH_LABEL, "chair", True)
    assert TEMPLATES.texts(marked).question == "What visible parts does the chair in the red box have?"


@pytest.mark.parametrize(
    ("noun", "article"),
    [
        ("biplane", "a"), ("airplane", "an"), ("hour hand", "an"), ("unicycle", "a"), ("umbrella", "an"),
        ("utility knife", "a"), ("urn", "an"), ("SUV", "an"), ("European car", "a"), ("one-seater", "a"),
        ("uninhabited hut", "an"), ("ultralight aircraft", "an"), ("house", "a"), ("8-wheeler", "an"),
    ],
)  # fmt: skip
def test_articles_follow_the_sound(noun: str, article: str) -> None:
    assert with_article(noun) == f"{article} {noun}"


def test_a_template_file_must_be_complete(tmp_path: Path) -> None:
    text = DEFAULT_TEMPLATES.read_text()
    path = tmp_path / "t.yaml"
    path.write_text(text + "extra: 1\n")
    with pytest.raises(ValueError, match="exactly the keys"):
        load_templates(path)
    path.write_text(text.replace("visible parts: {parts}.", "visible parts."))
    with pytest.raises(ValueError, match=r"'identification' must contain \{parts\} exactly once"):
        load_templates(path)
