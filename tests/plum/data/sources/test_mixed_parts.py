"""Pairs of images as a training source, and a model's answers about pairs in the benchmark."""

from pathlib import Path

import numpy as np
import pytest
import torch

from partonomy.__main__ import main
from partonomy.datasets.mixed_parts import PairSamples, PairTask, read_sources, split_file
from partonomy.images import load_image
from partonomy.masks import rle_area
from partonomy.models.contract import Turn
from partonomy.structures import CharSpan
from plum.data.build import build_mixture, check_source
from plum.data.collate import check_sample, write_targets
from plum.data.excluded_images import ExcludedImages, TrainingImages
from plum.data.sources.mixed_parts import MixedPartsSource
from plum.inference.partonomy_adapter import PlumModel
from plum.inference.predictor import FinishReason, Prediction
from plum.models.systems.seg_token import SegTokens, read_marks
from plum.structures import Sample
from plum.train_config import DataConfig, SourceConfig
from tests.partonomy.questions.mixed_parts.pair_world import draw_dataset, store_dataset
from tests.plum.predictor_world import make_predictor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    dataset = store_dataset(draw_dataset("own", 60, root), root / "own")
    flags = ["--num_train", "60", "--num_val", "0", "--num_test", "12", "--shares", "0.7,0,0.3", "--min_pixels", "1"]
    assert main(["build-mixedparts", str(dataset), "--output", str(root / "pairs"), *flags]) == 0
    return root / "pairs"


@pytest.fixture(scope="module")
def source(folder: Path) -> MixedPartsSource:
    return MixedPartsSource(folder)


def draw(source: MixedPartsSource, index: int, seed: int = 0) -> Sample:
    return source.sample(index, np.random.default_rng(seed))


def test_a_sample_holds_both_images_and_every_mask(source: MixedPartsSource, folder: Path) -> None:
    stored = PairSamples(split_file(folder, "train"))
    root = read_sources(folder)["own"].image_root
    assert len(source) == len(stored) == 60
    for index, pair in enumerate(stored):
        sample = draw(source, index)
        check_sample(sample)
        for image, name, (height, width) in zip(sample.images, pair.images, pair.size_of, strict=True):
            assert np.array_equal(image, load_image(root / name, height, width))
        ((exchange,),) = sample.conversations
        expected = sorted((one.label, one.image, one.mask.counts) for one in (*pair.objects, *pair.parts))
        named = zip(exchange.spans, exchange.images, exchange.masks, strict=True)
        found = [(exchange.answer[span.start + 4 : span.end], image, mask.counts) for span, image, mask in named]
        assert sorted(found) == expected
        names = {one.label for one in (*pair.objects, *pair.parts)}
        assert not any(name in exchange.question for name in names), "a question never names what is looked for"
        assert source.text_length(index, np.random.default_rng(0)) == len(exchange.question) + len(exchange.answer)


def test_texts_are_drawn_anew_and_reproducibly(source: MixedPartsSource) -> None:
    texts = [draw(source, len(source) - 1, seed).conversations[0][0] for seed in range(12)]
    assert len({text.question for text in texts}) > 4
    assert len({text.answer for text in texts}) > 4
    assert draw(source, 3, 5).conversations == draw(source, 3, 5).conversations


def test_written_samples_are_read_back_by_the_notation(source: MixedPartsSource) -> None:
    notation = SegTokens("many", has_phrase_tags=True, unnamed_image="none")
    for index in range(len(source)):
        plain = draw(source, index).conversations[0][0]
        (exchange,) = write_targets(draw(source, index), notation).conversations[0]
        found = [(exchange.answer[m.phrase.start : m.phrase.end], m.image) for m in read_marks(exchange.answer)]
        assert found == [
            (plain.answer[span.start : span.end], image) for span, image in zip(plain.spans, plain.images, strict=True)
        ]
        assert notation.words(exchange.answer) == plain.answer


def test_pairs_with_an_excluded_image_are_left_out(folder: Path) -> None:
    stored = PairSamples(split_file(folder, "train"))
    root = read_sources(folder)["own"].image_root
    names = [name for pair in stored for name in pair.images]
    chosen = max(sorted(set(names)), key=names.count)
    images = TrainingImages(ExcludedImages([root / chosen]), ExcludedImages([root / names[0]]))
    source = MixedPartsSource(folder, images)
    assert len(source) == sum(chosen not in pair.images for pair in stored) < len(stored)
    for index in range(len(source)):
        assert draw(source, index).sample_id.removeprefix("mixed_parts/") in {
            pair.sample_id for pair in stored if chosen not in pair.images
        }
    assert images.left_out == {str(root / chosen)}
    everything = TrainingImages(ExcludedImages([root / name for name in set(names)]), ExcludedImages([]))
    with pytest.raises(ValueError, match=r"train.jsonl has no pair to train on \(60 have excluded images\)"):
        MixedPartsSource(folder, everything)


def test_a_mixture_takes_the_folder(folder: Path) -> None:
    config = SourceConfig("mixed_parts", str(folder))
    data = DataConfig(sources=(config,))
    check_source(config, data)
    mixture = build_mixture(data, seed=0)
    assert len(mixture[0].images) == 2
    assert len(list(mixture.sources[0].exchanges())) == 60
    with pytest.raises(FileNotFoundError, match="build-mixedparts"):
        build_mixture(DataConfig(sources=(SourceConfig("mixed_parts", str(folder / "nowhere")),)), seed=0)
    with pytest.raises(ValueError, match="path is missing"):
        check_source(SourceConfig("mixed_parts"), data)


def test_a_damaged_line_is_named(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pairs"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    lines = split_file(copy, "train").read_bytes().splitlines(keepends=True)
    split_file(copy, "train").write_bytes(b"".join([*lines[:4], b'{"source": 3}\n', *lines[5:]]))
    with pytest.raises(ValueError, match=r"train.jsonl, line 5: not a sample of MixedParts .*build the pairs again"):
        MixedPartsSource(copy)


def test_the_model_answers_about_pairs_in_reading_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model = PlumModel(make_predictor(), "tiny", max_new_tokens=7)
    text = "the leg (IMAGE2) (IMAGE1) and the arm (IMAGE2)"
    leg, arm = CharSpan(4, 7), CharSpan(34, 37)
    images = [np.zeros((4, 6, 3), np.uint8), np.zeros((5, 3, 3), np.uint8)]
    asked: list[object] = []
    endings: tuple[FinishReason, ...] = ("length", "stop")

    def generate_about(shown: list[np.ndarray], turns: tuple[Turn, ...], limit: int) -> tuple[Prediction, ...]:
        asked.append(([image.shape for image in shown], turns[0].text, limit))
        first = Prediction(text, (leg,), (1.0,), np.ones((1, 4, 6), bool), (1.0,), endings[len(asked) - 1], 7)
        second = Prediction(text, (leg, arm), (1.0,) * 2, np.zeros((2, 5, 3), bool), (1.0,) * 2)
        return first, second

    monkeypatch.setattr(model.predictor, "generate_about", generate_about)
    reply = model.answer_images(images, "What do they share?")
    assert [reply.is_cut, model.answer_images(images, "What do they share?").is_cut] == [True, False]
    del asked[1]
    assert [(one.phrase, one.image, one.mask.shape) for one in reply.phrases] == [
        ("leg", 0, (4, 6)),
        ("leg", 1, (5, 3)),
        ("arm", 1, (5, 3)),
    ]
    assert reply.text == text
    assert asked == [([(4, 6, 3), (5, 3, 3)], "What do they share?", 7)]


def test_an_image_of_many_pairs_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = make_predictor()
    model = PlumModel(predictor, "tiny", max_new_tokens=2)
    encode, encoded = predictor.model.llava.encode_images, []

    def count(pixels: torch.Tensor) -> object:
        encoded.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(predictor.model.llava, "encode_images", count)
    images = [np.full((8, 8, 3), 40 * number, np.uint8) for number in range(5)]
    for first, second in ((0, 1), (0, 2), (3, 4), (1, 0)):
        model.answer_images([images[first], images[second]], "What do they share?")
    assert sum(encoded) == 5


def test_tasks_of_all_kinds_are_in_the_folder(folder: Path) -> None:
    stored = PairSamples(split_file(folder, "train"))
    assert {pair.task for pair in stored} == set(PairTask)
    assert all(rle_area(one.mask) for pair in stored for one in (*pair.objects, *pair.parts))
