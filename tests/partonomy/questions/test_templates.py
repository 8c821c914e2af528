"""Wording."""

from pathlib import Path

import pytest

from partonomy.questions.templates import (
    DEFAULT_TEMPLATES,
    NAMED_TEMPLATES,
    AnswerForm,
    PartSeparator,
    Wording,
    find_templates,
    load_templates,
    with_article,
)
from partonomy.structures import QuestionType

TEMPLATES = load_templates()
PARTS = ("fuselage", "propeller", "tail fin")


@pytest.mark.parametrize(
    ("question_type", "question", "answer"),
    [
        (
            QuestionType.IDENTIFICATION,
            "What visible parts does the object in the image have?",
            "The object in the image has the following visible parts: fuselage, propeller, and tail fin.",
        ),
        (
            QuestionType.IDENTIFICATION_WITH_LABEL,
            "What visible parts does the biplane in the image have?",
            "The biplane in the image has the following visible parts: fuselage, propeller, and tail fin.",
        ),
        (
            QuestionType.POSITIVE_WITH_LABEL,
            "What visible parts does the biplane in the image have in common with an airplane?",
            "The biplane in the image has the following visible parts in common with an airplane: "
            "fuselage, propeller, and tail fin.",
        ),
        (
            QuestionType.NEGATIVE_WITH_LABEL,
            "What visible parts does the biplane in the image have which an airplane does not have?",
            "The biplane in the image has the following visible parts which an airplane does not: "
            "fuselage, propeller, and tail fin.",
        ),
        (
            QuestionType.DIFFERENCE,
            "What visible parts does the object in the image have in common with an airplane but not with a drone?",
            "The object in the image has the following visible parts in common with an airplane but not with a drone: "
            "fuselage, propeller, and tail fin.",
        ),
        (
            QuestionType.WHOLE_TO_PART,
            "What visible parts does the biplane in the image have?",
            "The biplane in the image has the following visible parts: fuselage, propeller, and tail fin.",
        ),
        (
            QuestionType.PART_TO_WHOLE,
            "What visible parts does the object in the image have?",
            "The object in the image has the following visible parts: fuselage, propeller, and tail fin.",
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
    assert (biplane.text, biplane.is_correct) == ("It is a biplane.", True)
    assert (airplane.text, airplane.label) == ("It is an airplane.", "airplane")
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


@pytest.mark.parametrize(
    ("name", "parts", "listed"),
    [
        ("core", ["wing"], "wing"),
        ("core", ["wing", "tail"], "wing, and tail"),
        ("core", ["wing", "tail", "nose"], "wing, tail, and nose"),
        ("core", ["wing", "tail", "nose", "door"], "wing, tail, nose, and door"),
        ("plain", ["wing", "tail"], "wing, tail"),
        ("plain", ["wing", "tail", "nose"], "wing, tail, nose"),
    ],
)
def test_packaged_wordings_list_parts(name: str, parts: list[str], listed: str) -> None:
    texts = load_templates(find_templates(name)).texts(Wording(QuestionType.IDENTIFICATION, "biplane", False))
    choice = texts.form.choice(parts, True)
    assert choice.text == f"The object in the image has the following visible parts: {listed}."
    assert [choice.text[span.start : span.end] for span in choice.part_spans] == parts


def test_every_gap_has_its_own_text() -> None:
    form = AnswerForm("", PartSeparator("; ", " & ", " + "), "")
    assert [form.choice("abcd"[:count], True).text for count in range(1, 5)] == [
        "a",
        "a + b",
        "a; b & c",
        "a; b; c & d",
    ]


def test_the_former_wording_is_kept_by_name() -> None:
    wording = Wording(QuestionType.NEGATIVE_WITH_LABEL, "biplane", False, "airplane")
    templates = load_templates(NAMED_TEMPLATES["plain"])
    texts = templates.texts(wording)
    assert texts.question == "What visible parts does the biplane in the image have that an airplane does not have?"
    assert texts.form.choice(PARTS, True).text == (
        "The biplane in the image has the following visible parts that an airplane does not have: "
        "fuselage, propeller, tail fin."
    )
    assert templates.object_choices(wording, ["biplane"])[0].text == "The object in the image is a biplane."


@pytest.mark.parametrize("value", ['""', "{between: a, last: b}", "{between: a, last: b, two: ' '}", "3", "[a]"])
def test_part_separators_that_separate_nothing_are_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(NAMED_TEMPLATES["plain"].read_text().replace('part_separator: ", "', f"part_separator: {value}"))
    with pytest.raises(ValueError, match=r"t\.yaml: part_separator"):
        load_templates(path)
