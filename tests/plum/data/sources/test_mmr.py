"""MMR as a training source: question, answer and masks stay together (design: the official loader mixes them up)."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from partonomy.datasets.sources.mmr import MmrImage, MmrQuestion, ground_answer, mmr_file, mmr_image_path, read_mmr
from partonomy.questions.mmr.build import build_mmr
from partonomy.questions.mmr.templates import TemplateMaker
from plum.data.build import build_mixture
from plum.data.collate import check_sample, write_targets
from plum.data.mixture import BLOCK
from plum.data.sources.base import longest_text
from plum.data.sources.mmr import MmrSource
from plum.data.sources.wordings import REASON
from plum.models.systems.seg_token import SEG_TOKEN, SegTokens
from plum.structures import Exchange
from plum.train_config import DataConfig, SourceConfig
from plum.training.config_file import load_train_config
from tests.partonomy.questions.mmr_world import box, make_dataset, make_table
from tests.plum.data.miniature_world import make_encoder, miniature
from tests.plum.data.test_download_mixture import build_parts, on_miniature

NUM_QUESTIONS = 4
CONFIG = Path(__file__).resolve().parents[4] / "configs" / "m2sa_7b.yaml"
Triple = tuple[str, str, tuple[str, ...]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with four questions each."""
    folder = tmp_path_factory.mktemp("mmr")
    maker = TemplateMaker(make_table(folder), "sha", 0, NUM_QUESTIONS)
    build_mmr(make_dataset(folder / "data"), maker, folder / "root", "train", {})
    return folder / "root"


def read(root: Path) -> tuple[MmrImage, ...]:
    return read_mmr(mmr_file(root, "train"))


def triple(question: MmrQuestion) -> Triple:
    masks = tuple(target.mask.counts for target in question.targets)
    return question.question, ground_answer(question).text, masks


def drawn_triple(exchange: Exchange) -> Triple:
    """A sampled exchange without the request around its question."""
    for wording in REASON:
        before, after = wording.split("{sentence}")
        if exchange.question.startswith(before) and exchange.question.endswith(after):
            question = exchange.question.removeprefix(before).removesuffix(after)
            return question, exchange.answer, tuple(mask.counts for mask in exchange.masks)
    raise AssertionError(exchange.question)


def draw(source: MmrSource, num_seeds: int) -> list[Triple]:
    triples = []
    for index in range(len(source)):
        for seed in range(num_seeds):
            rows = source.sample(index, np.random.default_rng(seed)).conversations
            assert len(rows) == 3
            assert len({drawn_triple(row[0])[0] for row in rows}) == 3, "no question twice"
            triples += [drawn_triple(row[0]) for row in rows]
    return triples


def test_every_drawn_triple_is_one_of_the_file(root: Path) -> None:
    images = read(root)
    assert {len(image.questions) for image in images} == {NUM_QUESTIONS}
    known = {triple(question) for image in images for question in image.questions}
    drawn = draw(MmrSource(root, images, 3), 20)
    assert set(drawn) == known, "and each of the file's is drawn"


def test_the_official_pairing_is_right_once_in_n(root: Path) -> None:
    """Of n = 4 questions three are drawn in random order; drawn j meets answer j: right with probability 1/4."""
    images = read(root)
    known = {triple(question) for image in images for question in image.questions}
    drawn = draw(MmrSource(root, images, 3, is_unaligned=True), 100)
    share = sum(one in known for one in drawn) / len(drawn)
    assert len(drawn) == 4 * 100 * 3
    assert abs(share - 0.25) < 0.05  # four standard deviations of 1200 draws: 4 x sqrt(.1875 / 1200) = .05
    last = {triple(image.questions[3])[1] for image in images} - {triple(q)[1] for i in images for q in i.questions[:3]}
    assert last
    assert not last & {answer for _, answer, _ in drawn}, "answers from the fourth on are never trained"


def test_two_questions_are_paired_rightly_by_the_official_loader_too(root: Path) -> None:
    images = [replace(image, questions=image.questions[:2]) for image in read(root)]
    source = MmrSource(root, images, 3, is_unaligned=True)
    for seed in range(5):
        pairings = source.draw_pairings(0, np.random.default_rng(seed))
        assert [one.question.question_id for one in pairings] == ["1:0", "1:1"]
        assert all(one.question is one.answered for one in pairings)


@pytest.mark.parametrize("is_unaligned", [False, True])
def test_there_are_as_many_seg_tokens_as_masks(root: Path, is_unaligned: bool) -> None:
    source = MmrSource(root, read(root), 3, has_marks=True, is_unaligned=is_unaligned)
    sizes = set()
    for seed in range(20):
        sample = write_targets(source.sample(0, np.random.default_rng(seed)), SegTokens("many"))
        check_sample(sample)
        exchanges = [row[0] for row in sample.conversations]
        sizes.add(sum(len(exchange.masks) for exchange in exchanges))
        for exchange in exchanges:
            assert exchange.answer.count(SEG_TOKEN) == len(exchange.masks) == len(exchange.spans)
    assert (len(sizes) > 1) != is_unaligned, "the official loader takes the same answers every time"


def test_systems_with_marks_write_them_where_the_file_has_them(root: Path) -> None:
    source = MmrSource(root, read(root), 3, has_marks=True)
    texts = {question.text_answer.replace("{seg}", SEG_TOKEN) for question in source.questions[0]}
    sample = write_targets(source.sample(0, np.random.default_rng(0)), SegTokens("many"))
    assert {row[0].answer for row in sample.conversations} <= texts


def test_phrases_are_the_targets_names(root: Path) -> None:
    source = MmrSource(root, read(root), 3)
    for row in source.sample(0, np.random.default_rng(3)).conversations:
        pairing = next(q for q in source.questions[0] if ground_answer(q).text == row[0].answer)
        phrases = [row[0].answer[span.start : span.end] for span in row[0].spans]
        assert phrases == [target.category_name.replace(":", "'s ") for target in pairing.targets]
        make_encoder().encode(row)


def test_samples_are_a_function_of_index_and_seed_and_their_length_is_known(root: Path) -> None:
    source = MmrSource(root, read(root), 2)
    for seed in range(4):
        sample = source.sample(1, np.random.default_rng(seed))
        assert sample.conversations == source.sample(1, np.random.default_rng(seed)).conversations
        assert source.text_length(1, np.random.default_rng(seed)) == longest_text(sample.conversations)
        assert (sample.sample_id, len(sample.conversations)) == ("mmr/2", 2)
    assert len(list(source.exchanges())) == 4 * NUM_QUESTIONS


def test_questions_that_cannot_be_trained_on_are_left_out_and_counted(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = read(root)[0]
    good = image.questions[0]
    no_name = replace(good, text_answer="These do: " + "this {seg} " * len(good.targets) + ".")
    too_few = replace(good, text_answer="Nothing.")
    empty = replace(good, targets=tuple(replace(target, mask=box(0, 0, 0, 0)) for target in good.targets))
    changed = replace(image, questions=(good, no_name, too_few, empty))
    with caplog.at_level(logging.INFO):
        source = MmrSource(root, [changed], 3)
        assert source.questions == ((good,),)
        assert (
            "of 4 questions left out: 1 with a target that the answer does not name; 1 with an empty mask"
            in caplog.text
        )
        assert "1 with more or fewer {seg} than targets" in caplog.text
        assert MmrSource(root, [changed], 3, has_marks=True).questions == ((good, no_name),)
    with pytest.raises(ValueError, match="mmr has nothing to train on"):
        MmrSource(root, [replace(image, questions=(too_few,))], 3)
    with pytest.raises(ValueError, match=r"mmr, question 1:0: it holds a control token"):
        MmrSource(root, [replace(image, questions=(replace(good, question="<image> what?"),))], 3)


def test_excluded_and_broken_images(root: Path, tmp_path: Path) -> None:
    images = read(root)
    assert len(MmrSource(root, images, 3, {mmr_image_path(root, images[0])})) == 3
    with pytest.raises(ValueError, match="source mmr, image mmr/1: .*image file not found"):
        MmrSource(tmp_path, images, 3).sample(0, np.random.default_rng(0))


def test_m2sa_draws_2_9_2_6(tmp_path: Path) -> None:
    build_parts(miniature(), tmp_path)
    shipped = load_train_config(["--config", str(CONFIG)]).data
    data = on_miniature(shipped, tmp_path)
    mixture = build_mixture(
        data, seed=1, encoder=make_encoder(data.max_text_tokens), with_part_maps=False, has_marks=True
    )
    counts = {"semantic": 0, "referring": 0, "vqa": 0, "": 0}
    for source, share in zip(data.sources, mixture.block_counts, strict=True):
        counts[source.group] += share
    assert [counts[group] for group in ("semantic", "referring", "vqa", "")] == [
        round(BLOCK * share / 19) for share in (2, 9, 2, 6)
    ]
    assert isinstance(mixture.sources[-1], MmrSource)
    assert not mixture.sources[-1].is_unaligned
    assert mixture.sources[-1].has_marks


def test_only_mmr_can_be_unaligned() -> None:
    sources = (SourceConfig("reasoning", legacy_unaligned_qa=True),)
    with pytest.raises(ValueError, match="legacy_unaligned_qa belongs to `mmr` alone"):
        build_mixture(DataConfig(sources, dataset_dir=str(miniature())), seed=0)
    data = DataConfig((SourceConfig("mmr", legacy_unaligned_qa=True),), dataset_dir=str(miniature()))
    (source,) = build_mixture(data, seed=0).sources
    assert isinstance(source, MmrSource)
    assert source.is_unaligned
