import json
from pathlib import Path

import pytest

from partonomy.benchmarks.mmr import read_mmr_items
from partonomy.datasets.sources.mmr import Kind, mmr_image_path, read_mmr
from partonomy.images import load_image
from partonomy.questions.mmr.build import (
    NOTE,
    BuildState,
    build_file,
    build_mmr,
    find_build,
    link_images,
    rejected_file,
)
from partonomy.questions.mmr.pairs import UNANSWERED, MadePairs, Rejection
from partonomy.questions.mmr.scene import kind_of
from partonomy.questions.mmr.templates import TemplateMaker
from partonomy.structures import AnnotatedImage
from tests.partonomy.questions.mmr_world import make_dataset, make_table

SETTINGS = {"dataset": "street"}


def make_maker(folder: Path, seed: int = 0) -> TemplateMaker:
    return TemplateMaker(make_table(folder), "sha", seed, 3)


def test_val_has_four_files_and_the_benchmark_reads_them(tmp_path: Path) -> None:
    dataset, root, maker = make_dataset(tmp_path / "data"), tmp_path / "root", make_maker(tmp_path)
    counts = build_mmr(dataset, maker, root, "val", SETTINGS)
    assert list(counts) == ["val", "test_mixed", "test_obj_only", "test_part_only"]
    for name, kinds in zip(counts, (set(Kind), {Kind.MIXED}, {Kind.OBJECT}, {Kind.PART}), strict=True):
        images = read_mmr(root / "MMR" / f"MMR_{name}.json")
        questions = [question for image in images for question in image.questions]
        assert {kind_of(question) for question in questions} == kinds
        assert [image.image_id for image in images] == ["1", "2", "3", "4"]
        assert len(questions) == sum(counts[name].by_kind.values()) == sum(counts[name].by_targets.values())
        assert len(read_mmr_items(root, name)) == len(questions)
    first = read_mmr(root / "MMR" / "MMR_val.json")[0]
    assert first.questions == maker.make(dataset.images[0], None).questions, "the file holds what was made"
    assert first.file_name == "street/1.png"
    assert load_image(mmr_image_path(root, first), 20, 40)[0, 0].tolist() == [1, 90, 30]


def test_the_account_says_what_it_is_and_what_was_left_out(tmp_path: Path) -> None:
    dataset, root = make_dataset(tmp_path / "data"), tmp_path / "root"
    build_mmr(dataset, make_maker(tmp_path), root, "train", SETTINGS)
    account = json.loads(build_file(root, "train").read_text())
    assert account["note"] == NOTE == "MMR-like, not the published MMR"
    wording = account["maker"].pop("wording_sha256")
    assert len(wording) == 64
    assert account["maker"] == {"maker": "templates", "functions_sha256": "sha", "seed": 0, "questions_per_image": 3}
    counts = account["files"]["train"]
    assert (counts["images"], counts["questions"], counts["not_askable"]) == (4, 12, {"car:door": 4})
    assert counts["withheld"] == {}
    assert sum(counts["questions_by_kind"].values()) == 12
    assert rejected_file(root, "train").read_text() == ""


def test_what_is_there_is_recognised(tmp_path: Path) -> None:
    dataset, root, maker = make_dataset(tmp_path / "data"), tmp_path / "root", make_maker(tmp_path)
    assert find_build(root, "train", maker, SETTINGS) is BuildState.ABSENT
    build_mmr(dataset, maker, root, "train", SETTINGS)
    content = (root / "MMR" / "MMR_train.json").read_bytes()
    assert find_build(root, "train", maker, SETTINGS) is BuildState.DONE
    assert find_build(root, "train", make_maker(tmp_path, seed=1), SETTINGS) is BuildState.OTHER
    assert find_build(root, "train", maker, {"dataset": "other"}) is BuildState.OTHER
    (root / "MMR" / "MMR_train.json").unlink()
    assert find_build(root, "train", maker, SETTINGS) is BuildState.UNFINISHED
    build_mmr(dataset, maker, root, "train", SETTINGS)
    assert (root / "MMR" / "MMR_train.json").read_bytes() == content


class Half:
    """Rejects every second image."""

    settings = {"maker": "half"}

    def __init__(self, maker: TemplateMaker, criterion: str) -> None:
        self.maker = maker
        self.criterion = criterion

    def make(self, image: AnnotatedImage, kind: Kind | None) -> MadePairs:
        if image.image_id % 2:
            return self.maker.make(image, kind)
        return MadePairs(rejections=(Rejection(self.criterion, "some reason", "detail", "text"),))


@pytest.mark.parametrize(("criterion", "state"), [(UNANSWERED, BuildState.UNFINISHED), ("clarity", BuildState.DONE)])
def test_rejections_are_counted_and_listed_and_the_unanswered_asked_again(
    tmp_path: Path, criterion: str, state: BuildState
) -> None:
    dataset, root, maker = make_dataset(tmp_path / "data"), tmp_path / "root", Half(make_maker(tmp_path), criterion)
    counts = build_mmr(dataset, maker, root, "train", SETTINGS)["train"]
    assert (counts.num_images, counts.without_question) == (2, 2)
    assert counts.rejected == {(criterion, "some reason"): 2}
    assert [image.image_id for image in read_mmr(root / "MMR" / "MMR_train.json")] == ["1", "3"]
    lines = [json.loads(line) for line in rejected_file(root, "train").read_text().splitlines()]
    assert [line["image_id"] for line in lines] == [2, 4]
    assert lines[0]["reason"] == "some reason"
    assert find_build(root, "train", maker, SETTINGS) is state


def test_nothing_to_ask_is_an_error(tmp_path: Path) -> None:
    class Mute(Half):
        def make(self, image: AnnotatedImage, kind: Kind | None) -> MadePairs:
            return MadePairs()

    dataset = make_dataset(tmp_path / "data")
    with pytest.raises(ValueError, match="street: none of its 4 images yields a question of train"):
        build_mmr(dataset, Mute(make_maker(tmp_path), ""), tmp_path / "root", "train", SETTINGS)
    assert not build_file(tmp_path / "root", "train").exists()


def test_links_are_relative_and_never_replaced(tmp_path: Path) -> None:
    dataset, other = make_dataset(tmp_path / "data"), make_dataset(tmp_path / "other")
    root = tmp_path / "root"
    assert link_images(root, dataset) == link_images(root, dataset) == "street"
    link = root / "refer_seg/images/mscoco/images/street"
    assert not Path(link.readlink()).is_absolute()
    assert link.resolve() == dataset.image_root.resolve()
    with pytest.raises(FileExistsError, match="leads to .*data/images, not to .*other/images"):
        link_images(root, other)
