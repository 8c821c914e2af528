"""Samples of the sources that are made of downloads."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from partonomy.benchmarks.reason_seg import TargetNames, read_explanations, read_reason_seg
from partonomy.benchmarks.refcoco import read_referring
from partonomy.masks import decode_mask, encode_mask, rle_area
from plum.data.collate import check_sample
from plum.data.readers.label_maps import LABEL_LAYOUTS, LabelMaps
from plum.data.readers.llava_instruct import Dialogues
from plum.data.sources.base import Source
from plum.data.sources.llava_instruct import LlavaInstructSource
from plum.data.sources.reasoning import ReasoningSource
from plum.data.sources.referring import ReferringSource
from plum.data.sources.semantic import SemanticSource
from plum.data.sources.targets import AskedTargets
from plum.data.sources.wordings import LISA_WORDINGS
from plum.inputs.encoding import ConversationEncoder
from plum.structures import Exchange, Sample
from tests.plum.data.miniature_world import make_encoder, miniature, miniature_copy
from tests.plum.data.readers.test_llava_instruct import turns, write_dialogues
from tests.plum.data.tokenizers_for_tests import FAMILIES


def phrases(exchange: Exchange) -> list[str]:
    return [exchange.answer[span.start : span.end] for span in exchange.spans]


def draw(source: Source, index: int, seed: int = 0) -> Sample:
    return source.sample(index, np.random.default_rng(seed))


def exchanges_of(sample: Sample) -> list[Exchange]:
    return [exchange for conversation in sample.conversations for exchange in conversation]


def make_sources(root: Path) -> list[Source]:
    """One source of every kind."""
    return [
        SemanticSource(LabelMaps(root, "ade20k"), 3),
        ReferringSource("refcoco", read_referring(root, "refcoco", "train"), 3),
        ReasoningSource(read_reason_seg(root, "train", texts="all"), read_explanations(root), 3),
        LlavaInstructSource(Dialogues(root), make_encoder()),
    ]


@pytest.mark.parametrize("position", range(4))
def test_samples_are_sound_and_a_function_of_index_and_seed(position: int) -> None:
    source = make_sources(miniature())[position]
    encoder = make_encoder()
    for index in range(len(source)):
        for seed in range(6):
            sample, again = draw(source, index, seed), draw(source, index, seed)
            check_sample(sample)
            assert sample.conversations == again.conversations
            assert sample.source == source.name
            for conversation in sample.conversations:
                encoder.encode(conversation, name=sample.sample_id)
    assert all(exchange.answer for exchange in source.exchanges())


@pytest.mark.parametrize(
    ("asked", "sizes"),
    [
        (AskedTargets(), {1}),
        (AskedTargets(per_question=2), {1, 2}),
        (AskedTargets("lists"), {1, 2, 3}),
        (AskedTargets(wordings=LISA_WORDINGS), {1}),
        (AskedTargets(per_question=3, wordings=LISA_WORDINGS), {1, 2}),
    ],
)
def test_semantic_masks_are_the_pixels_of_the_named_classes(asked: AskedTargets, sizes: set[int]) -> None:
    maps = LabelMaps(miniature(), "cocostuff")
    source = SemanticSource(maps, 2, asked)
    counts = set()
    for index in range(len(source)):
        classes = maps.read(index).classes
        for seed in range(10):
            sample = draw(source, index, seed)
            assert len(exchanges_of(sample)) <= 2
            masks = [mask for exchange in exchanges_of(sample) for mask in exchange.masks]
            assert len(set(masks)) == len(masks), "no class twice in one image"
            for exchange in exchanges_of(sample):
                counts.add(len(exchange.spans))
                names = phrases(exchange)
                if exchange.is_marked:
                    assert names == ["{seg}"] * len(exchange.masks)
                    named = [name for name in maps.names if named_in(name, exchange.question)]
                    names = sorted(named, key=exchange.question.find)
                for name, mask in zip(names, exchange.masks, strict=True):
                    assert name in exchange.question
                    assert (decode_mask(mask) == (classes == maps.names.index(name))).all()
            assert sample.ignore_mask is not None
            assert (sample.ignore_mask == (classes == 255)).all()
    assert counts == sizes


def named_in(name: str, text: str) -> bool:
    """Whether a class is named in a question, and not only as a part of another class's name."""
    return re.search(rf"\b(?:the|and|,) {re.escape(name)}\b(?=,| and|\?|\.| in)", text) is not None


def test_a_map_without_classes_is_replaced_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = miniature_copy(tmp_path / "data")
    folder = root / LABEL_LAYOUTS["ade20k"].labels
    paths = sorted(folder.glob("*.png"))
    blank = np.zeros_like(np.asarray(Image.open(paths[5])))
    Image.fromarray(blank).save(paths[5])
    source = SemanticSource(LabelMaps(root, "ade20k"), 1)
    assert draw(source, 5).sample_id == "ade20k/ADE_train_00000000"  # the first follows the last
    assert "ADE_train_00000005.jpg: none of its pixels has a class" in caplog.text
    assert "(ade20k: 1 of 6 images so far)" in caplog.text
    caplog.clear()
    draw(source, 5)
    assert not caplog.text, "said once of an image"
    for path in paths:
        Image.fromarray(blank).save(path)
    with pytest.raises(ValueError, match="no label map from number 2 on has a class"):
        draw(source, 2)


def test_an_image_of_another_size_than_its_map_is_named(tmp_path: Path) -> None:
    root = miniature_copy(tmp_path / "data")
    Image.new("RGB", (5, 5)).save(root / "ade20k/images/training/ADE_train_00000000.jpg")
    with pytest.raises(ValueError, match="source ade20k, image ade20k/ADE_train_00000000: .*the image is 5 x 5"):
        draw(SemanticSource(LabelMaps(root, "ade20k"), 1), 0)


def test_referring_draws_different_sentences_of_one_image() -> None:
    items = read_referring(miniature(), "refcoco+", "train")
    source = ReferringSource("refcoco+", items, 2)
    seen = set()
    for seed in range(30):
        exchanges = exchanges_of(draw(source, 0, seed))
        texts = [phrases(exchange)[0] for exchange in exchanges]
        assert len(texts) == len(set(texts)) == 2
        assert all(text in exchange.question for text, exchange in zip(texts, exchanges, strict=True))
        assert all(exchange.answer == f"It is {text}." for text, exchange in zip(texts, exchanges, strict=True))
        seen |= set(texts)
    first = [item for item in items if item.image_id == items[0].image_id]
    assert seen == {item.text for item in first}
    assert exchanges_of(draw(source, 0))[0].masks == (first[0].mask,)


def test_referring_asks_for_several_sentences_as_m2sa_does() -> None:
    items = read_referring(miniature(), "refcoco+", "train")
    source = ReferringSource("refcoco+", items, 2, asked=AskedTargets(per_question=3))
    by_text = {item.text: item.mask for item in items if item.image_id == items[0].image_id}
    assert len(by_text) == 3
    shapes = set()
    for seed in range(40):
        exchanges = exchanges_of(draw(source, 0, seed))
        assert sorted(text for exchange in exchanges for text in phrases(exchange)) == sorted(by_text), "all, once each"
        for exchange in exchanges:
            assert [by_text[text] for text in phrases(exchange)] == list(exchange.masks)
            assert all(text in exchange.question for text in phrases(exchange))
        shapes.add(tuple(len(exchange.masks) for exchange in exchanges))
    assert shapes == {(1, 2), (2, 1)}, "two questions, none empty; the third sentence goes to either"
    with pytest.raises(ValueError, match="refcoco.: sentences are not asked in lists"):
        ReferringSource("refcoco+", items, 2, asked=AskedTargets("lists"))


def test_items_without_a_mask_or_with_control_tokens(caplog: pytest.LogCaptureFixture) -> None:
    item = read_referring(miniature(), "refcoco", "train")[0]
    empty = replace(item, mask=encode_mask(np.zeros((item.height, item.width), bool)))
    with caplog.at_level(logging.INFO):
        source = ReferringSource("refcoco", [empty, item], 3)
    assert "1 items without a mask" in caplog.text
    assert len(exchanges_of(draw(source, 0))) == 1
    with pytest.raises(ValueError, match="nothing to train on"):
        ReferringSource("refcoco", [empty], 3)
    with pytest.raises(ValueError, match="nothing to train on .1 images excluded"):
        ReferringSource("refcoco", [item], 3, {item.image_path})
    with pytest.raises(ValueError, match="item refcoco/0/0: .* control token"):
        ReferringSource("refcoco", [replace(item, text="the </s> cup")], 3)


INSTRUCTIONS = ("Which thing in the picture was drawn last?", "What was put in front of everything else?")


@pytest.mark.parametrize("names", TargetNames)
def test_reasoning_answers_come_in_lisas_shares(names: TargetNames) -> None:
    items = read_reason_seg(miniature(), "train", texts="all", names=names)
    explanations = read_explanations(miniature())
    source = ReasoningSource(items, explanations, 3)
    index = next(i for i, group in enumerate(source.images) if group[0].image_path.name in explanations)
    words, with_reason, plain = 0, 0, 0
    for seed in range(1000):
        exchanges = exchanges_of(draw(source, index, seed))
        assert len(exchanges) == 2
        assert len({bool(exchange.masks) for exchange in exchanges}) == 1  # one form for the whole sample
        reason = explanations[source.images[index][0].image_path.name]
        for exchange in exchanges[:1]:
            answer, phrase = "It is the target.", "the target"
            if names is TargetNames.AUTHORS:  # no label: the instruction's own words
                phrase = next(text for text in INSTRUCTIONS if exchange.question.startswith(text)).rstrip("?")
                answer = f"{phrase}."
            words += exchange.answer == reason
            with_reason += exchange.answer == f"{answer} {reason}"
            plain += exchange.answer == answer
            assert phrases(exchange) == ([phrase] if exchange.masks else [])
            assert exchange.is_tagged == bool(exchange.masks)
            assert (
                "explain" in exchange.question or "explanation" in exchange.question or "reason" in exchange.question
            ) == (exchange.answer == f"{answer} {reason}")
    assert words + with_reason + plain == 1000
    # Shares .1, .45, .45; four standard deviations of 1000 draws are .038 and .063.
    assert abs(words - 100) < 38
    assert abs(with_reason - 450) < 63
    sample = draw(source, index)
    assert sample.ignore_mask is not None
    assert sample.ignore_mask[:6, :8].sum() == 48 - decode_mask(items[0].mask)[:6, :8].sum()


@pytest.mark.parametrize(("names", "answer"), [(TargetNames.AUTHORS, "{}."), (TargetNames.THE_TARGET, "It is {}.")])
def test_a_named_target_is_repeated(names: TargetNames, answer: str) -> None:
    source = ReasoningSource(read_reason_seg(miniature(), "val", texts="all", names=names), {}, 3)
    (exchange,) = exchanges_of(draw(source, 0))
    name = source.images[0][0].text
    assert (phrases(exchange), exchange.answer) == ([name], answer.format(name))
    assert rle_area(exchange.masks[0]) > 0


def test_long_dialogues_lose_whole_exchanges_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    long = "word " * 60
    write_dialogues(
        tmp_path,
        turns("A?", "B."),
        turns("<image>\nA?", "B.", "C?", "D.", f"{long}?", "E.", "F?", "G."),
        turns(f"<image>\n{long}?", "B.", "C?", "D."),
    )
    encoder = make_encoder(40)
    with caplog.at_level(logging.INFO):
        source = LlavaInstructSource(Dialogues(tmp_path), encoder)
    assert "of 3 dialogues 1 lose exchanges at their end and 1 are left out: more than 40 text tokens" in caplog.text
    kept = [[exchange.answer for exchange in exchanges_of(draw(source, index))] for index in range(len(source))]
    assert kept == [["B."], ["B.", "D."]]
    with pytest.raises(ValueError, match="no dialogue fits into max_text_tokens = 3"):
        LlavaInstructSource(Dialogues(tmp_path), make_encoder(3))
    assert [
        len(exchanges_of(draw(LlavaInstructSource(Dialogues(tmp_path), make_encoder(None)), i))) for i in range(3)
    ] == [
        1,
        4,
        2,
    ]


@pytest.mark.parametrize("template", ["plain", "llava_v1", "llava_llama_2"])
def test_the_count_is_the_encoders(tmp_path: Path, template: str) -> None:
    """What is kept encodes without an error at exactly this limit, and one exchange more does not."""
    write_dialogues(
        tmp_path, turns("<image>\nWhere is it?", "Over there.", "Really?", "Yes, it is.", "Why?", "No idea.")
    )
    for make_tokenizer in FAMILIES.values():
        open_ended = ConversationEncoder(make_tokenizer(), template, 4)  # type: ignore[arg-type]
        exchanges = Dialogues(tmp_path).read(0).exchanges
        lengths = [open_ended.encode(exchanges[:count]).encoded.num_text_tokens for count in (1, 2, 3)]
        for count, length in enumerate(lengths, start=1):
            for limit, expected in ((length, count), (length - 1, count - 1)):
                encoder = ConversationEncoder(make_tokenizer(), template, 4, limit)  # type: ignore[arg-type]
                if expected:
                    source = LlavaInstructSource(Dialogues(tmp_path), encoder)
                    assert len(exchanges_of(draw(source, 0))) == expected
                    encoder.encode(draw(source, 0).conversations[0])


def test_dialogues_without_an_image_make_text_only_samples(tmp_path: Path) -> None:
    write_dialogues(tmp_path, turns("A?", "B."), image=None)
    sample = draw(LlavaInstructSource(Dialogues(tmp_path), make_encoder()), 0)
    assert sample.image is None
    check_sample(sample)


def test_a_broken_photograph_names_its_dialogue(tmp_path: Path) -> None:
    path = write_dialogues(tmp_path, turns("A?", "B."))
    assert json.loads(path.read_text())[0]["image"] == "1.jpg"
    (tmp_path / "coco/train2017/1.jpg").write_bytes(b"no image")
    with pytest.raises(
        ValueError, match="source llava_instruct, dialogue llava_instruct/dialogue0: .*not a readable image"
    ):
        draw(LlavaInstructSource(Dialogues(tmp_path), make_encoder()), 0)
