"""The embedded dataset: reproducible bytes, exact masks, the classes and parts it promises."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from partonomy.datasets.synthetic import dataset as synthetic
from partonomy.datasets.synthetic import geometry
from partonomy.datasets.synthetic.canvas import Canvas
from partonomy.datasets.synthetic.catalogue import BLUEPRINTS
from partonomy.datasets.synthetic.dataset import SyntheticConfig, build_synthetic, draw_image
from partonomy.datasets.synthetic.palette import NAMED_COLOURS
from partonomy.datasets.synthetic.scene import MIN_PART_PIXELS, DrawnImage
from partonomy.masks import decode_mask

CONFIG = SyntheticConfig(num_images=400, split="train", seed=3)


@pytest.fixture(scope="module")
def drawn_images() -> list[DrawnImage]:
    return [draw_image(CONFIG, index) for index in range(CONFIG.num_images)]


def read_images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "images").iterdir())}


def assert_same_drawing(first: DrawnImage, second: DrawnImage) -> None:
    assert first.label == second.label
    assert first.colour == second.colour
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.object_mask, second.object_mask)
    assert list(first.parts) == list(second.parts)
    for label, mask in first.parts.items():
        np.testing.assert_array_equal(mask, second.parts[label])


def test_ontology_is_as_wide_as_promised() -> None:
    names = synthetic.part_names()
    categories = {synthetic.category_of(label) for label in synthetic.class_names()}
    classes_with = Counter(part for blueprint in BLUEPRINTS for part in set(blueprint.parts))
    assert len(synthetic.class_names()) >= 16
    assert len(categories) >= 5
    assert len(names) >= 45
    assert sum(" " in name for name in names) >= 10
    assert classes_with["window"] >= 4
    assert sum(count >= 2 for count in classes_with.values()) >= 15
    assert all(len(blueprint.parts) == len(set(blueprint.parts)) for blueprint in BLUEPRINTS)
    assert len(set(synthetic.class_names())) == len(BLUEPRINTS)


def test_siblings_share_parts_and_differ() -> None:
    for label, sibling in (("airplane", "seaplane"), ("car", "bus"), ("dog", "horse"), ("chair", "armchair")):
        parts, sibling_parts = set(synthetic.parts_of(label)), set(synthetic.parts_of(sibling))
        assert synthetic.category_of(label) == synthetic.category_of(sibling)
        assert len(parts & sibling_parts) >= 3
        assert parts - sibling_parts
        assert sibling_parts - parts


def test_supports_name_parts_of_the_class() -> None:
    for blueprint in BLUEPRINTS:
        for part, support in blueprint.supports:
            assert part in blueprint.optional_parts
            assert support in blueprint.parts


def test_unknown_class_is_named_in_the_error() -> None:
    with pytest.raises(KeyError, match="'unicycle'.*bicycle"):
        synthetic.category_of("unicycle")


def test_every_class_and_part_occurs_and_classes_are_balanced(drawn_images: list[DrawnImage]) -> None:
    counts = Counter(drawn.label for drawn in drawn_images)
    assert set(counts) == set(synthetic.class_names())
    assert max(counts.values()) - min(counts.values()) <= 1
    seen = {(drawn.label, part) for drawn in drawn_images for part in drawn.parts}
    assert seen == {(blueprint.label, part) for blueprint in BLUEPRINTS for part in blueprint.parts}


def test_parts_are_sometimes_missing(drawn_images: list[DrawnImage]) -> None:
    shown = Counter((drawn.label, part) for drawn in drawn_images for part in drawn.parts)
    total = Counter(drawn.label for drawn in drawn_images)
    for blueprint in BLUEPRINTS:
        for part in blueprint.optional_parts:
            assert shown[blueprint.label, part] < total[blueprint.label], f"{part} of {blueprint.label}"


def test_masks_are_disjoint_inside_the_object_and_large_enough(drawn_images: list[DrawnImage]) -> None:
    for index, drawn in enumerate(drawn_images):
        covered = np.sum(list(drawn.parts.values()), axis=0)
        assert len(drawn.parts) >= 2, index
        assert covered.max() == 1, index
        assert not (covered.astype(bool) & ~drawn.object_mask).any(), index
        assert min(int(mask.sum()) for mask in drawn.parts.values()) >= MIN_PART_PIXELS, index
        assert drawn.object_mask.shape == drawn.image.shape[:2] == (CONFIG.image_size, CONFIG.image_size)


def test_labels_and_colours_belong_to_the_class(drawn_images: list[DrawnImage]) -> None:
    for index, drawn in enumerate(drawn_images):
        assert set(drawn.parts) <= set(synthetic.parts_of(drawn.label))
        assert drawn.category == synthetic.category_of(drawn.label)
        assert drawn.colour in NAMED_COLOURS
        assert drawn.colour == synthetic.body_colour(CONFIG, index)


def test_same_index_same_drawing_whatever_the_number_of_images() -> None:
    for index in (0, 7, 19):
        assert_same_drawing(draw_image(CONFIG, index), draw_image(replace(CONFIG, num_images=20), index))


def test_seed_and_split_change_the_drawing() -> None:
    reference = draw_image(CONFIG, 0).image
    for other in (replace(CONFIG, seed=4), replace(CONFIG, split="dev"), replace(CONFIG, split="val")):
        assert not np.array_equal(reference, draw_image(other, 0).image)


def test_smaller_images_keep_the_rules() -> None:
    config = SyntheticConfig(num_images=20, split="dev", image_size=96)
    for index in range(config.num_images):
        drawn = draw_image(config, index)
        assert drawn.image.shape == (96, 96, 3)
        assert min(int(mask.sum()) for mask in drawn.parts.values()) >= MIN_PART_PIXELS / 4


def test_one_and_two_workers_write_the_same_bytes_and_annotations(tmp_path: Path) -> None:
    config = replace(CONFIG, num_images=40)
    one = build_synthetic(config, tmp_path / "one", num_workers=1)
    two = build_synthetic(config, tmp_path / "two", num_workers=2)
    assert one.images == two.images
    assert len(read_images(tmp_path / "one")) == 40
    assert read_images(tmp_path / "one") == read_images(tmp_path / "two")


def test_dataset_records_what_was_drawn(tmp_path: Path) -> None:
    config = replace(CONFIG, num_images=6, split="val")
    dataset = build_synthetic(config, tmp_path, num_workers=1)
    assert dataset.image_root == tmp_path / "images"
    assert [image.image_id for image in dataset.images] == [1, 2, 3, 4, 5, 6]
    for index, image in enumerate(dataset.images):
        drawn = draw_image(config, index)
        (instance,) = image.objects
        assert (instance.label, instance.category) == (drawn.label, drawn.category)
        assert [part.label for part in instance.parts] == list(drawn.parts)
        for part in instance.parts:
            np.testing.assert_array_equal(decode_mask(part.mask), drawn.parts[part.label])
        assert instance.mask is not None
        np.testing.assert_array_equal(decode_mask(instance.mask), drawn.object_mask)
        stored = cv2.imread(str(dataset.image_root / image.file_name))
        assert stored is not None
        assert stored.shape == (image.height, image.width, 3)
        # JPEG moves pixels a little; a swap of the channels or a wrong image moves them a lot.
        assert np.abs(stored[..., ::-1].astype(int) - drawn.image).mean() < 8


def test_finished_images_are_left_alone_and_torn_ones_are_drawn_again(tmp_path: Path) -> None:
    config = replace(CONFIG, num_images=3)
    build_synthetic(config, tmp_path, num_workers=1)
    before = read_images(tmp_path)
    paths = sorted((tmp_path / "images").iterdir())
    times = [path.stat().st_mtime_ns for path in paths]
    paths[1].write_bytes(before[paths[1].name][:100])
    paths[2].unlink()
    build_synthetic(config, tmp_path, num_workers=1)
    assert read_images(tmp_path) == before
    assert paths[0].stat().st_mtime_ns == times[0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_images": 0, "split": "train"}, "num_images"),
        ({"num_images": 1, "split": "test"}, "split must be one of train, dev, val, got 'test'"),
        ({"num_images": 1, "split": "train", "seed": -1}, "seed"),
        ({"num_images": 1, "split": "train", "image_size": 32}, "image_size"),
    ],
)
def test_bad_config_is_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticConfig(**config)  # type: ignore[arg-type]


def test_index_and_workers_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexError, match="image 400 is outside"):
        draw_image(CONFIG, 400)
    with pytest.raises(ValueError, match="num_workers"):
        build_synthetic(CONFIG, tmp_path, num_workers=0)


def test_later_shapes_take_pixels_from_earlier_ones_and_details_take_none() -> None:
    canvas = Canvas(np.full((64, 64, 3), 200, dtype=np.uint8))
    canvas.fill(geometry.box(8, 8, 40, 40), (255, 0, 0), 1)
    canvas.fill(geometry.box(24, 8, 56, 40), (0, 255, 0), 2)
    canvas.fill(geometry.box(10, 10, 20, 20), (0, 0, 255), None)
    canvas.fill(geometry.box(8, 32, 56, 48), (90, 90, 90), 0)
    labels = canvas.finish_labels()
    picture = canvas.finish()
    assert labels[20, 12] == 1
    assert labels[20, 30] == 2  # drawn over 1
    assert labels[36, 12] == 0  # hidden by the foreground
    assert labels[60, 60] == 0
    assert picture[15, 15].argmax() == 2  # the detail is blue and still belongs to 1
    assert labels[15, 15] == 1
    # Box 1 keeps x 8..24, y 8..32 of which it owns 16 * 24 = 384 pixels, up to its drawn border.
    assert int((labels == 1).sum()) == pytest.approx(384, abs=2 * (16 + 24))


def test_shapes_outside_the_canvas_are_clipped() -> None:
    canvas = Canvas(np.full((64, 64, 3), 200, dtype=np.uint8))
    canvas.fill(geometry.box(-30, -30, -10, -10), (0, 0, 0), 1)
    assert not canvas.finish_labels().any()
    canvas.fill(geometry.box(-30, -30, 10, 10), (0, 0, 0), 1)
    labels = canvas.finish_labels()
    assert labels[:10, :10].all()
    assert not labels[12:, :].any()


def test_outlines_have_the_areas_of_their_shapes() -> None:
    def area(points: geometry.Points) -> float:
        return float(cv2.contourArea(points))

    assert area(geometry.box(-1, -2, 3, 4)) == pytest.approx(24)
    # Four rounded corners lose (4 - pi) r^2 = 0.858 at r = 1.
    assert area(geometry.box(-1, -2, 3, 4, radius=1)) == pytest.approx(24 - 0.858, abs=0.1)
    assert area(geometry.ellipse(5, 5, 2, 1, 30)) == pytest.approx(2 * np.pi, rel=0.02)
    # A bar of length 3 and width 1 with half circles: 3 + pi / 4.
    assert area(geometry.tube((0, 0), (3, 0), 1)) == pytest.approx(3 + np.pi / 4, rel=0.03)
    # A quarter of the ring between radii 1 and 2: (4 - 1) pi / 4.
    ring = geometry.arc_band(0, 0, 1, 2, degrees_from=0, degrees_to=90)
    assert area(ring) == pytest.approx(0.75 * np.pi, rel=0.02)
    assert area(geometry.bent_tube(((0, 0), (1, 0), (2, 0)), 1, 1)) == pytest.approx(2)


def test_smooth_passes_through_its_controls_and_turn_is_clockwise_on_the_screen() -> None:
    controls = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
    np.testing.assert_allclose(geometry.smooth(*controls)[::5], np.array(controls), atol=1e-6)
    # y points down: turning (1, 0) clockwise by 90 degrees gives (0, 1).
    np.testing.assert_allclose(geometry.turn(np.array([[1.0, 0.0]], dtype=np.float32), 90), [[0.0, 1.0]], atol=1e-6)
