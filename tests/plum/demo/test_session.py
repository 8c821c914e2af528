from pathlib import Path

import numpy as np
import pytest

from partonomy.models.contract import Role, Turn
from partonomy.structures import CharSpan
from plum.demo.session import Demo, Session, Source, select_words
from plum.inference.api import QUESTION as GENERAL_QUESTION
from plum.inference.predictor import WrittenAnswer
from plum.models.systems.seg_token import SegTokens
from tests.plum.demo.demo_world import QUESTION, asked, make_demo, select, span_of, write_photo
from tests.plum.predictor_world import ANSWER


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Demo:
    return make_demo(monkeypatch)


def test_a_question_is_answered_in_the_context_of_earlier_turns(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Turn, ...]] = []
    write = demo.predictor.write_about
    monkeypatch.setattr(
        demo.predictor, "write_about", lambda images, turns, limit: seen.append(turns) or write(images, turns, limit)
    )
    first = asked(demo, tmp_path)
    second = demo.ask(first, "  Has it a wheel?  ")
    history = (Turn(Role.USER, QUESTION), Turn(Role.ASSISTANT, ANSWER))
    assert seen == [history[:1], (*history, Turn(Role.USER, "Has it a wheel?"))]
    assert first.turns == history
    assert second.turns == (*seen[1], Turn(Role.ASSISTANT, ANSWER))
    assert second.shown is second.own is not None
    assert (second.shown.source, second.shown.question) == (Source.MODEL, "Has it a wheel?")
    again = demo.start_again(second)
    assert (again.photos, again.turns, again.shown) == (second.photos, (), None)


def test_an_empty_answer_does_not_join_the_conversation(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = asked(demo, tmp_path)
    monkeypatch.setattr(demo.predictor, "write_about", lambda *_: WrittenAnswer("", 1, "stop"))
    silent = demo.ask(session, "And?")
    assert silent.turns == session.turns
    assert silent.notice
    with pytest.raises(ValueError, match="no answer yet"):
        demo.segment(silent, 0, 1)


@pytest.mark.parametrize("num_photos", [1, 2])
def test_selected_words_are_segmented_together_in_reading_order(demo: Demo, tmp_path: Path, num_photos: int) -> None:
    session = asked(demo, tmp_path, num_photos)
    both = select(demo, select(demo, session, "propeller"), "front wheel")
    assert both.shown is not None
    assert (both.shown.source, both.shown.text) == (Source.SELECTION, ANSWER)
    spans = (span_of("front wheel"), span_of("propeller"))
    images = [photo.pixels for photo in session.photos]
    turns = (Turn(Role.USER, QUESTION),)
    expected = demo.predictor.segment_in(images, turns, ANSWER, [spans] * num_photos)
    assert len(both.shown.predictions) == num_photos
    for prediction, masks in zip(both.shown.predictions, expected, strict=True):
        assert prediction.spans == spans
        np.testing.assert_array_equal(prediction.masks, masks.masks)
        assert prediction.mask_confidences == masks.confidences
    assert both.turns == session.turns
    repeated = select(demo, both, "propeller")
    assert repeated.shown is both.shown
    assert "“propeller” is segmented already" in repeated.notice
    assert demo.show_own_phrases(both).shown is session.own


def test_words_of_ones_own_sentence_are_segmented(demo: Demo, tmp_path: Path) -> None:
    with_photo = demo.add_photos(Session(), [write_photo(tmp_path)])
    for session, question in ((with_photo, GENERAL_QUESTION), (asked(demo, tmp_path), QUESTION)):
        typed = demo.use_sentence(session, " The tail is red. ")
        assert typed.shown is not None
        assert (typed.shown.text, typed.shown.predictions) == ("The tail is red.", ())
        found = select(demo, typed, "tail")
        assert found.shown is not None
        assert (found.shown.source, found.shown.question) == (Source.SENTENCE, question)
        (prediction,) = found.shown.predictions
        assert prediction.spans == (CharSpan(4, 8),)
        turns = (Turn(Role.USER, question),)
        masks = demo.predictor.segment(session.photos[0].pixels, turns, "The tail is red.", prediction.spans).masks
        np.testing.assert_array_equal(prediction.masks, masks)
        assert found.turns == session.turns
        assert demo.show_own_phrases(found).shown is session.own


def test_new_photos_begin_a_new_conversation(demo: Demo, tmp_path: Path) -> None:
    session = asked(demo, tmp_path)
    more = demo.add_photos(session, [write_photo(tmp_path, "b.png", seed=7)])
    assert [photo.name for photo in more.photos] == ["photo_0.png", "b.png"]
    assert (more.turns, more.shown, more.own) == ((), None, None)
    assert "new conversation" in more.notice
    assert demo.add_photos(Session(), [write_photo(tmp_path)]).notice == ""


def test_mistakes_are_explained_in_one_sentence(demo: Demo, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no image")
    session = asked(demo, tmp_path)
    nothing = Session()
    for failing, message in (
        (lambda: demo.add_photos(nothing, []), "at least one photo"),
        (lambda: demo.add_photos(nothing, [write_photo(tmp_path), broken]), r"^broken\.jpg: "),
        (lambda: demo.add_photos(nothing, [tmp_path / "gone.jpg"]), r"gone\.jpg"),
        (lambda: demo.ask(nothing, QUESTION), "Send a photo first"),
        (lambda: demo.use_sentence(nothing, "It is red."), "Send a photo first"),
        (lambda: demo.segment(nothing, 0, 1), "no answer yet"),
        (lambda: demo.ask(session, " \n"), "Type a question"),
        (lambda: demo.use_sentence(session, " "), "Type a sentence"),
        (lambda: demo.segment(session, 0, 0), "Select words"),
        (lambda: demo.ask(session, "wheel " * 2000), "conversation is full: .*“New conversation”"),
        (lambda: demo.segment(demo.use_sentence(session, "wheel " * 2000), 0, 5), "conversation is full"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            failing()
        assert str(tmp_path) not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_conversation_that_leaves_no_room_for_an_answer_is_full(demo: Demo, tmp_path: Path) -> None:
    session = demo.add_photos(Session(), [write_photo(tmp_path)])
    encoder = demo.predictor.encoder
    limit = encoder.text_limit(len(encoder.slot().ids))
    assert limit is not None
    digits = limit + 1 - encoder.encode_prompt((), "1").num_text_tokens  # each is a token
    assert demo.ask(session, "1" * (digits - 2 * len(ANSWER))).turns
    for too_many in (digits - 1, digits + 1):  # a token is left, which an answer's end would take; the prompt alone
        with pytest.raises(ValueError, match=f"the model takes {limit}, answer included.*“New conversation”"):
            demo.ask(session, "1" * too_many)


@pytest.mark.parametrize(
    ("text", "selected", "words"),
    [
        (ANSWER, "front wheel", "front wheel"),
        (ANSWER, "ont whe", "front wheel"),
        (ANSWER, " a front wheel, ", "a front wheel"),
        (ANSWER, "propeller.", "propeller"),
        ("A tail-plane and 'flaps'.", "plane", "tail-plane"),
        ("A tail-plane and 'flaps'.", "'flaps'", "flaps"),
        ("A tail-plane and 'flaps'.", "lap", "flaps"),
        ("Das Höhenruder.", "ruder", "Höhenruder"),
        ("Das Ho\u0308henruder.", "ruder", "Ho\u0308henruder"),
        ("飞机有红色的螺旋桨。", "螺旋桨", "螺旋桨"),  # no spaces: a selection is not extended
        ("😀 wheel", "heel", "wheel"),
    ],
)
def test_a_selection_is_extended_to_whole_words(text: str, selected: str, words: str) -> None:
    start = text.index(selected)
    plain, span = select_words(text, CharSpan(start, start + len(selected)), str)
    assert plain == text
    assert plain[span.start : span.end] == words


@pytest.mark.parametrize("bounds", [(0, 0), (5, 3), (900, 950), (20, 22), (45, 46)])
def test_a_selection_without_words_is_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="Select words"):
        select_words(ANSWER, CharSpan(*bounds), str)


def test_a_selection_beyond_the_answer_ends_with_it() -> None:
    assert select_words(ANSWER, CharSpan(36, 999), str)[1] == span_of("propeller")
    assert select_words(ANSWER, CharSpan(-5, 2), str)[1] == CharSpan(0, 2)


MARKED = "It has <p> a wheel </p> [SEG] (IMAGE1) and <p> another wheel </p> [SEG]."
NOTATION = SegTokens("many", has_phrase_tags=True)
PLAIN = "It has a wheel and another wheel."


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        ("wheel </p> [SEG]", (9, 14)),
        ("a wheel </p> [SEG] (IMAGE1) and", (7, 18)),
        ("<p> another wheel </p> [SEG].", (19, 32)),
        ("another", (19, 26)),
        ("has <p> a", (3, 8)),
    ],
)
def test_marks_of_the_notation_are_left_out(selected: str, expected: tuple[int, int]) -> None:
    start = MARKED.index(selected)
    plain, span = select_words(MARKED, CharSpan(start, start + len(selected)), NOTATION.words)
    assert plain == PLAIN
    assert span == CharSpan(*expected)


@pytest.mark.parametrize("selected", ["[SEG]", "SEG", "(IMAGE1)", "</p> [SEG] (IMAGE1)", "/p"])
def test_a_selected_mark_is_refused(selected: str) -> None:
    start = MARKED.index(selected)
    with pytest.raises(ValueError, match="Select words"):
        select_words(MARKED, CharSpan(start, start + len(selected)), NOTATION.words)
