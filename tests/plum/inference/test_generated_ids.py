"""Masks of the model's own answers are read from the ids that it generated, also if the text tokenizes to others."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from partonomy.models.contract import AnswerRequest, Role, Turn
from partonomy.structures import CharSpan
from plum.checkpoints.published.convert_system import SystemRequest, convert_system
from plum.checkpoints.store import load_pretrained
from plum.inference.generated_ids import place_tokens
from plum.inference.predictor import Predictor
from plum.inference.question_batch import QuestionBatch
from tests.plum.checkpoints.published.published_systems import (
    SYSTEM_PROMPT,
    Original,
    decode_mask,
    encode_image,
    finish_mask,
    make_glamm,
    make_lisa,
    run_llava,
    seg_queries,
    slow_ids,
    write_system,
)
from tests.plum.predictor_world import QUESTION, make_image, make_predictor

IMAGE = np.random.default_rng(3).integers(0, 256, (21, 30, 3), dtype=np.uint8)
TURNS = (Turn(Role.USER, "What visible parts does the biplane have?"),)
MARK = "\N{LOWER ONE EIGHTH BLOCK}"


@dataclass(frozen=True)
class World:
    """A converted LISA and the original."""

    original: Original
    predictor: Predictor

    def ids(self, *pieces: str) -> list[int]:
        """Ids of pieces of the vocabulary, or of texts as the slow tokenizer reads them."""
        found: list[int] = []
        for piece in pieces:
            token = self.predictor.tokenizer.convert_tokens_to_ids(piece)
            is_piece = token != self.predictor.tokenizer.unk_token_id
            found += [token] if is_piece else slow_ids(piece, self.original.tokens)
        return found


@pytest.fixture(scope="module")
def lisa(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder, original = tmp_path_factory.mktemp("lisa"), make_lisa()
    source, clip = write_system(folder, original)
    convert_system(SystemRequest(source, clip, targets="many"), folder / "model")
    loaded = load_pretrained(folder / "model")
    return World(original, Predictor(loaded.model, loaded.tokenizer, loaded.config))


@pytest.fixture
def world(lisa: World) -> World:
    predictor = lisa.predictor
    return World(lisa.original, Predictor(predictor.model, predictor.tokenizer, predictor.model.config))


def original_masks(original: Original, answer_ids: Sequence[int]) -> list[np.ndarray]:
    """Masks that the original code gives for the ids that it generated."""
    prompt = f"{SYSTEM_PROMPT}USER: <im_start><image><im_end>\n{TURNS[0].text} ASSISTANT:"
    first, second = (slow_ids(chunk, original.tokens) for chunk in prompt.split("<image>"))
    computed = run_llava(original, IMAGE, [first, [*second, *answer_ids, 2]])
    embedding = encode_image(original, IMAGE)
    return [finish_mask(decode_mask(embedding, query), IMAGE) for query in seg_queries(original, computed)]


def answer_both_ways(
    monkeypatch: pytest.MonkeyPatch, predictor: Predictor, ids: Sequence[int], has_end: bool = True
) -> tuple[str, tuple[CharSpan, ...], np.ndarray]:
    """What the predictor and a batch make of an answer that the model generates as these ids."""
    row = torch.tensor([[*ids, *[2] * has_end]])
    limit = row.shape[1]
    monkeypatch.setattr(predictor.model, "generate_text", lambda *arguments: row)
    alone = predictor.generate(IMAGE, TURNS, limit)
    assert alone.finish_reason == ("stop" if has_end else "length")
    batch = QuestionBatch(predictor, [predictor.images.read(IMAGE)])
    monkeypatch.setattr(batch._states, "continue_greedily", lambda paths, longest: row)
    (together,) = batch.generate([AnswerRequest(0, TURNS)], limit)
    assert (together.text, together.spans) == (alone.text, alone.spans)
    assert np.array_equal(together.masks, alone.masks)
    return alone.text, alone.spans, alone.masks


CASES: dict[str, tuple[tuple[str, ...], str, bool]] = {
    "as_the_tokenizer_writes": ((f"{MARK}It", "has a wheel", "[SEG]", MARK, "."), "It has a wheel [SEG].", False),
    "no_mark_after": (("It has a wheel", "[SEG]", "."), "It has a wheel [SEG].", True),
    "two_marks_before": (("It has a wheel", MARK, "[SEG]", MARK, "."), "It has a wheel [SEG].", True),
    "marks_on_both_sides": (("It has a wheel", MARK, "[SEG]", MARK, MARK, "a"), "It has a wheel [SEG]  a", True),
    "two_in_a_row": (("It has a wheel", "[SEG]", "[SEG]", "."), "It has a wheel [SEG] [SEG].", True),
    "line_break_before": (("It has a wheel", "<0x0A>", "[SEG]", MARK, "."), "It has a wheel [SEG].", True),
    "spelt_word": (("It has a", f"{MARK}w", "h", "e", "e", "l", "[SEG]", MARK, "."), "It has a wheel [SEG].", True),
    "one_at_the_start": (("[SEG]", "It", "has"), "[SEG]It has", True),
}
"""Generated pieces, the text, and whether it tokenizes to other ids."""


@pytest.mark.parametrize("has_end", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_masks_are_those_of_the_generated_ids(
    monkeypatch: pytest.MonkeyPatch, world: World, case: str, has_end: bool
) -> None:
    pieces, expected_text, differs = CASES[case]
    ids = world.ids(*pieces)
    text, spans, masks = answer_both_ways(monkeypatch, world.predictor, ids, has_end)
    assert text == expected_text
    expected = original_masks(world.original, ids)
    assert len(masks) == len(spans) == ids.count(world.original.seg) == len(expected)
    assert np.array_equal(masks, np.stack(expected))
    assert (world.predictor.num_own_answers, world.predictor.num_kept_ids) == (2, 2 * differs)


def test_ids_of_the_text_would_give_other_masks(world: World) -> None:
    row = world.predictor.answers.own([world.predictor.encoder.slot()], TURNS, "It has a wheel [SEG].")
    read_again = row.encoded.input_ids[row.answers[-1].start : row.answers[-1].end - 1]
    generated = world.ids("It has a wheel", MARK, "[SEG]", ".")
    assert read_again != tuple(generated)
    (ours,), (theirs,) = (original_masks(world.original, ids) for ids in (generated, read_again))
    assert not np.array_equal(ours, theirs)


def test_a_mark_that_is_spelt_is_none(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    ids = world.ids("It has a wheel", f"{MARK}[", "S", "E", "<0x47>", "]", ".")
    assert world.original.seg not in ids
    text, spans, masks = answer_both_ways(monkeypatch, world.predictor, ids)
    assert text == "It has a wheel [SEG]."
    assert (spans, len(masks)) == ((), 0)


def test_disagreements_are_reported(
    monkeypatch: pytest.MonkeyPatch, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="plum.inference.predictor"):
        answer_both_ways(monkeypatch, world.predictor, world.ids("It has a wheel", "[SEG]", MARK, "."))
        assert not caplog.records
        for _ in range(6):
            answer_both_ways(monkeypatch, world.predictor, world.ids("It has a wheel", MARK, "[SEG]", MARK, "."))
    assert [record.getMessage().split(" own")[0] for record in caplog.records] == ["1 of 3", "10 of 12"]
    assert "their masks are read from the generated ones" in caplog.text


def test_glamms_tags_are_found_among_generated_ids(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = make_glamm()
    source, clip = write_system(tmp_path, original, legacy=False)
    convert_system(SystemRequest(source, clip), tmp_path / "model")
    loaded = load_pretrained(tmp_path / "model")
    predictor = Predictor(loaded.model, loaded.tokenizer, loaded.config)
    world = World(original, predictor)
    ids = world.ids("It has a", MARK, "<p>", MARK, f"{MARK}wheel", "</p>", MARK, "[SEG]", ".")
    text, spans, masks = answer_both_ways(monkeypatch, predictor, ids)
    assert text == "It has a <p> wheel </p> [SEG]."
    assert [text[span.start : span.end] for span in spans] == ["wheel"]
    assert masks.shape == (1, *IMAGE.shape[:2])
    assert predictor.num_kept_ids == 2


def test_the_taggers_phrases_are_placed_in_the_text_of_generated_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = make_predictor()
    words = "It has a front wheel, \N{SNOWMAN} and wing."
    ids = [
        token for character in words for token in predictor.tokenizer(character, add_special_tokens=False)["input_ids"]
    ]
    row = torch.tensor([[*ids, predictor.model.llava.special_tokens.eos]])
    monkeypatch.setattr(predictor.model, "generate_text", lambda *arguments: row)

    def tag(states: torch.Tensor, mask: torch.Tensor, is_answer: torch.Tensor, *_: object) -> torch.Tensor:
        """Tag the tokens of "front wheel" and of the snowman's bytes."""
        assert int(is_answer.sum()) == row.shape[1]
        logits = torch.zeros(row.shape[1], 3)
        logits[:, 0] = 1
        snow = len(predictor.tokenizer("\N{SNOWMAN}", add_special_tokens=False)["input_ids"])
        assert snow > 1
        for start, length in ((9, 11), (22, snow)):
            logits[start, 1] = 9
            logits[start + 1 : start + length, 2] = 9
        return logits

    monkeypatch.setattr(predictor.model, "tag", tag)
    found = predictor.generate(make_image(), QUESTION, row.shape[1])
    assert found.text == words
    assert [words[span.start : span.end] for span in found.spans] == ["front wheel", "\N{SNOWMAN}"]
    assert predictor.num_kept_ids == 1


def test_places_of_tokens() -> None:
    pieces = {1: "It", 2: " is", 3: " ", 4: "[SEG]", 5: " .", 6: "\ufffd", 7: ""}

    def decode(ids: Sequence[int]) -> str:
        return "".join(pieces[token] for token in ids).replace("\ufffd\ufffd", "\u00e9").strip()

    assert place_tokens([1, 2, 3, 4, 5], decode, "It is [SEG].") == [(0, 2), (3, 5), (6, 6), (6, 11), (11, 12)]
    assert place_tokens([1, 6, 6, 7], decode, "It\u00e9") == [(0, 2), (2, 2), (2, 3), (3, 3)]
    assert place_tokens([3, 1, 3, 3], decode, "It") == [(0, 0), (0, 2), (2, 2), (2, 2)]
    assert place_tokens([1, 2], decode, "It") is None, "a text that was cut"
