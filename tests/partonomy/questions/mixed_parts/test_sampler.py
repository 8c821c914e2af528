"""Pairs of images are drawn without repetition and without omission, within the limits."""

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from partonomy.datasets.mixed_parts import PairTask
from partonomy.questions.mixed_parts import sampler
from partonomy.questions.mixed_parts.index import MaskFile, SourceIndex, Unit, index_dataset
from partonomy.questions.mixed_parts.sampler import (
    ClassWeights,
    DrawnPair,
    PairSampler,
    Permutation,
    SamplerSettings,
    UniqueBy,
    split_places,
)
from partonomy.questions.mixed_parts.taxonomy import ComparableRules, Decision, judge_pairs
from partonomy.structures import UNNAMED_PART, AnnotatedImage, ObjectInstance, PartDataset
from tests.partonomy.questions.mixed_parts.pair_world import draw_dataset, make_object, rectangle

EVERYTHING = 10**6
WIDE = SamplerSettings(max_targets=100, max_per_image=EVERYTHING)


def index_of(dataset: PartDataset, unit: Unit = Unit.LABEL, min_pixels: int = 1) -> SourceIndex:
    return index_dataset(dataset, MaskFile(), unit, min_pixels)


def comparable_of(index: SourceIndex) -> list[tuple[str, str]]:
    judged = judge_pairs(index.name, index.taxonomy, index.categories, ComparableRules({}, {}))
    return [(one.pair.first, one.pair.second) for one in judged if one.decision is Decision.ACCEPT]


def draw(
    index: SourceIndex, task: PairTask, settings: SamplerSettings = WIDE, count: int = EVERYTHING
) -> list[DrawnPair]:
    return list(PairSampler(index, task, comparable_of(index), settings, key=7).draw(count))


def targets_of(index: SourceIndex, task: PairTask, first: int, second: int) -> list[tuple[str, str]]:
    """The pairs of classes under which two images have targets, written out without the sampler."""
    one, other = index.images[first].objects, index.images[second].objects
    if task is PairTask.COMMON_OBJECTS:
        return [(label, label) for label in one if label in other]
    found = []
    for label, owner in one.items():
        for name, partner in other.items():
            is_comparable = (min(label, name), max(label, name)) in comparable_of(index)
            shared, differing = owner.parts.keys() & partner.parts.keys(), owner.parts.keys() ^ partner.parts.keys()
            wanted = shared if task is PairTask.COMMON_PARTS else differing
            if is_comparable and owner.parts and partner.parts and wanted:
                found.append((label, name))
    return found


@pytest.mark.parametrize("task", PairTask)
def test_every_pair_of_images_with_targets_is_drawn_once(task: PairTask) -> None:
    index = index_of(draw_dataset("own", 30, Path()))
    drawn = draw(index, task)
    expected = {pair for pair in combinations(range(len(index.images)), 2) if targets_of(index, task, *pair)}
    assert len(expected) > 50
    assert Counter(frozenset(one.places) for one in drawn) == Counter(map(frozenset, expected))
    for one in drawn:
        assert one.labels in targets_of(index, task, *one.places)


@pytest.mark.parametrize("task", PairTask)
def test_the_targets_of_a_pair(task: PairTask) -> None:
    index = index_of(draw_dataset("own", 30, Path()))
    for one in draw(index, task):
        first, second = (index.images[place].objects for place in one.places)
        if task is PairTask.COMMON_OBJECTS:
            assert one.targets == (tuple(sorted(first.keys() & second.keys())),) * 2
            continue
        owner, other = first[one.labels[0]], second[one.labels[1]]
        if task is PairTask.COMMON_PARTS:
            assert one.targets == (tuple(sorted(owner.parts.keys() & other.parts.keys())),) * 2
        else:
            assert one.targets == (
                tuple(sorted(owner.parts.keys() - other.parts)),
                tuple(sorted(other.parts.keys() - owner.parts)),
            )
            assert not set(one.targets[0]) & set(one.targets[1])


def test_several_pairs_of_classes_share_an_image_pair_fairly() -> None:
    chosen = Counter(
        one.labels
        for one in draw(index_of(draw_dataset("own", 60, Path())), PairTask.COMMON_PARTS)
        if one.labels[0] != one.labels[1]
    )
    # Each of the two directions occurs, since the images are swapped at random.
    assert chosen["chair", "stool"] > 5
    assert chosen["stool", "chair"] > 5


def test_which_image_comes_first_does_not_follow_from_the_labels() -> None:
    drawn = draw(index_of(draw_dataset("own", 60, Path())), PairTask.COMMON_OBJECTS)
    share = sum(one.places[0] < one.places[1] for one in drawn) / len(drawn)
    assert 0.4 < share < 0.6


def test_the_seed_decides() -> None:
    index = index_of(draw_dataset("own", 30, Path()))
    first = draw(index, PairTask.COMMON_PARTS, count=40)
    assert first == draw(index, PairTask.COMMON_PARTS, count=40)
    other = draw(index, PairTask.COMMON_PARTS, replace(WIDE, seed=1), count=40)
    assert {one.places for one in first} != {one.places for one in other}


def two_chairs(first: tuple[str, ...], second: tuple[str, ...], other: str = "chair") -> PartDataset:
    size = (40, 60)
    objects = (make_object("chair", first, 1, 0, size), make_object(other, second, 2, 0, size))
    images = tuple(AnnotatedImage(place, f"{place}.png", *size, (one,)) for place, one in enumerate(objects))
    return PartDataset("own", Path(), images)


def with_third(dataset: PartDataset, *objects: ObjectInstance) -> PartDataset:
    return PartDataset("own", Path(), (*dataset.images, AnnotatedImage(9, "9.png", 40, 60, objects)))


def unique_targets(dataset: PartDataset, unique_by: UniqueBy, min_pixels: int = 1) -> list[tuple[tuple[str, ...], ...]]:
    drawn = draw(index_of(dataset, min_pixels=min_pixels), PairTask.UNIQUE_PARTS, replace(WIDE, unique_by=unique_by))
    return [one.targets for one in drawn if set(one.places) == {0, 1}]


def test_unique_by_image_and_by_taxonomy() -> None:
    # A third chair shows that chairs have arms: their absence from the second image proves nothing.
    dataset = with_third(
        two_chairs(("arm", "leg"), ("leg", "seat")), make_object("chair", ("arm", "back"), 9, 0, (40, 60))
    )
    (by_image,) = unique_targets(dataset, UniqueBy.IMAGE)
    assert sorted(by_image) == [("arm",), ("seat",)]
    assert unique_targets(dataset, UniqueBy.TAXONOMY) == []
    other = two_chairs(("arm", "leg"), ("leg", "pedal"), "stool")
    (kept,) = unique_targets(with_third(other, make_object("stool", ("arm",), 9, 0, (40, 60))), UniqueBy.TAXONOMY)
    assert sorted(kept) == [(), ("pedal",)]


def test_a_small_or_unreadable_part_is_neither_a_target_nor_absent() -> None:
    dataset = two_chairs(("arm", "back"), ("back",))
    first, second = dataset.images
    (chair,) = second.objects
    small = replace(chair, parts=(*chair.parts, replace(chair.parts[0], label="arm", mask=rectangle(0, 0, 1, 2))))
    for changed in (small, replace(chair, left_out_parts=("arm",)), replace(chair, left_out_parts=(UNNAMED_PART,))):
        images = (first, replace(second, objects=(changed,)))
        assert unique_targets(PartDataset("own", Path(), images), UniqueBy.IMAGE, min_pixels=10) == []
    assert len(unique_targets(dataset, UniqueBy.IMAGE, min_pixels=10)) == 1


def test_an_object_without_annotated_parts_is_not_compared() -> None:
    dataset = two_chairs(("arm",), ())
    assert draw(index_of(dataset), PairTask.UNIQUE_PARTS) == []
    assert len(draw(index_of(dataset), PairTask.COMMON_OBJECTS)) == 1


def test_classes_that_are_not_comparable_are_not_paired() -> None:
    dataset = two_chairs(("door", "wheel"), ("door", "knob"), "oven")
    assert draw(index_of(dataset), PairTask.COMMON_PARTS) == []


def test_limits() -> None:
    index = index_of(draw_dataset("own", 40, Path()))
    everything = draw(index, PairTask.COMMON_PARTS)
    assert max(len(one.targets[0]) for one in everything) > 2
    for one in draw(index, PairTask.COMMON_PARTS, replace(WIDE, max_targets=6)):
        assert len(one.targets[0]) <= 2
    few = draw(index, PairTask.COMMON_PARTS, replace(WIDE, max_per_image=3))
    uses = Counter(place for one in few for place in one.places)
    assert max(uses.values()) == 3
    assert len(few) > len(index.images) // 2
    capped = draw(index, PairTask.COMMON_PARTS, replace(WIDE, max_per_class_pair=4))
    assert set(Counter(tuple(sorted(one.labels)) for one in capped).values()) == {4}
    assert len(draw(index, PairTask.COMMON_PARTS, count=5)) == 5


def test_class_weights() -> None:
    objects = [make_object("chair", ("leg",), number, 0, (40, 60)) for number in range(40)]
    objects += [make_object("bus", ("door",), number, 0, (40, 60)) for number in range(40, 50)]
    images = tuple(AnnotatedImage(place, f"{place}.png", 40, 60, (one,)) for place, one in enumerate(objects))
    index = index_of(PartDataset("own", Path(), images))
    shares = {}
    for weights in ClassWeights:
        drawn = draw(index, PairTask.COMMON_OBJECTS, replace(WIDE, class_weights=weights), count=60)
        shares[weights] = sum(one.labels[0] == "bus" for one in drawn) / len(drawn)
    # 45 pairs of buses against 780 pairs of chairs.
    assert shares[ClassWeights.PRODUCT] < 0.15 < shares[ClassWeights.ROOT] < 0.33 < shares[ClassWeights.UNIFORM] < 0.67


def test_instances_are_united_by_label_or_chosen() -> None:
    size = (40, 60)
    objects = (make_object("chair", ("arm", "leg"), 1, 0, size), make_object("chair", ("leg",), 2, 1, size))
    dataset = PartDataset("own", Path(), (AnnotatedImage(1, "1.png", *size, objects),))
    masks, chosen_masks = MaskFile(), MaskFile()
    united = index_dataset(dataset, masks, Unit.LABEL, 1).images[0].objects["chair"]
    chosen = index_dataset(dataset, chosen_masks, Unit.INSTANCE, 1).images[0].objects["chair"]
    masks.finish()
    chosen_masks.finish()
    assert united.parts.keys() == chosen.parts.keys() == {"arm", "leg"}
    assert masks.text(united.parts["leg"]) != chosen_masks.text(chosen.parts["leg"])
    assert masks.text(united.parts["arm"]) == chosen_masks.text(chosen.parts["arm"])


def test_an_image_with_objects_that_cannot_be_used_is_left_out() -> None:
    dataset = two_chairs(("leg",), ("leg",))
    first, second = dataset.images
    index = index_of(PartDataset("own", Path(), (first, replace(second, has_other_objects=True))))
    assert [image.file_name for image in index.images] == [first.file_name]
    assert sum(index.left_out.values()) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 1000])
def test_a_permutation_has_every_number_once(size: int) -> None:
    order = [Permutation(size, 5)[place] for place in range(size)]
    assert sorted(order) == list(range(size))
    if size > 10:
        assert order != list(range(size))
        assert order != [Permutation(size, 6)[place] for place in range(size)]


def test_a_split_has_no_image_twice_and_is_stable_under_new_images() -> None:
    keys = [int(2**64 * place / 200) for place in range(200)]
    parts = split_places(keys, (0.8, 0.1, 0.1))
    assert sorted(place for part in parts for place in part) == list(range(200))
    assert list(map(len, parts)) == [160, 20, 20]
    more = split_places([*keys, 12345], (0.8, 0.1, 0.1))
    assert [part[: len(kept)] for part, kept in zip(more, parts, strict=True)] == list(parts)
    assert split_places([2**64 - 1], (1.0, 0.0, 0.0)) == ([0], [], [])


def test_a_part_that_cannot_be_used_in_one_instance_is_no_target_of_all() -> None:
    size = (40, 60)
    objects = (
        replace(make_object("chair", ("leg",), 1, 0, size), left_out_parts=("arm",)),
        make_object("chair", ("arm",), 2, 1, size),
    )
    (image,) = index_of(PartDataset("own", Path(), (AnnotatedImage(1, "1.png", *size, objects),))).images
    assert image.objects["chair"].parts.keys() == {"leg"}
    assert image.objects["chair"].seen == {"leg", "arm"}


def test_a_pair_of_classes_is_given_up_after_misses_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    chairs = [make_object("chair", (("arm",), ("leg",))[number % 2], number, 0, (40, 60)) for number in range(40)]
    images = tuple(AnnotatedImage(place, f"{place}.png", 40, 60, (one,)) for place, one in enumerate(chairs))
    index = index_of(PartDataset("own", Path(), images))
    assert len(draw(index, PairTask.COMMON_PARTS)) == 2 * 190
    monkeypatch.setattr(sampler, "MAX_MISSES", 14)  # half of the draws miss, but seldom so many in a row
    assert len(draw(index, PairTask.COMMON_PARTS)) > 100
    monkeypatch.setattr(sampler, "MAX_MISSES", 1)
    assert len(draw(index, PairTask.COMMON_PARTS)) < 20
