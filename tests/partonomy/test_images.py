"""Images in the frame of their annotations, and the drawn box."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from partonomy.images import BOX_COLOUR, check_image, draw_box, hash_image, image_size, load_image

ROTATED_QUARTER = 6  # EXIF: the camera stood on its side, a viewer turns the image clockwise


def write_photo(path: Path, size: tuple[int, int], orientation: int | None = None) -> np.ndarray:
    """Write a PNG of random pixels, size (width, height), and return its raw array."""
    array = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif)
    return array


def test_plain_image(tmp_path: Path) -> None:
    array = write_photo(tmp_path / "a.png", (7, 5))
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 5, 7), array)
    assert image_size(tmp_path / "a.png") == (5, 7)


def test_exif_rotation_is_applied_where_the_annotation_has_it(tmp_path: Path) -> None:
    array = write_photo(tmp_path / "a.png", (7, 5), ROTATED_QUARTER)
    upright = np.rot90(array, k=-1)  # clockwise
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 7, 5), upright)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 5, 7), array)
    assert image_size(tmp_path / "a.png") == (7, 5)
    check_image(tmp_path / "a.png", 7, 5)
    check_image(tmp_path / "a.png", 5, 7)


def test_exif_rotation_of_a_square_is_applied(tmp_path: Path) -> None:
    array = write_photo(tmp_path / "a.png", (6, 6), ROTATED_QUARTER)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 6, 6), np.rot90(array, k=-1))


@pytest.mark.parametrize("read", [load_image, check_image])
def test_another_size_names_file_and_sizes(tmp_path: Path, read: object) -> None:
    write_photo(tmp_path / "a.png", (7, 5))
    with pytest.raises(ValueError, match=r"a\.png: the image is 5 x 7 .*its annotation 50 x 70"):
        read(tmp_path / "a.png", 50, 70)  # type: ignore[operator]


def test_truncated_jpeg_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    array = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(array).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"cut\.jpg: the image file is damaged"):
        load_image(path, 64, 64)


def test_missing_file_and_no_image(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        load_image(tmp_path / "none.png", 1, 1)
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.png: not a readable image"):
        load_image(tmp_path / "text.png", 1, 1)


def test_modes_become_rgb(tmp_path: Path) -> None:
    grey = np.array([[0, 128], [200, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.stack([grey] * 3 + [np.full_like(grey, 9)], axis=-1), "RGBA").save(tmp_path / "alpha.png")
    for name in ("grey", "palette", "deep", "alpha"):
        loaded = load_image(tmp_path / f"{name}.png", 2, 2)
        assert loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, np.stack([grey] * 3, axis=-1), err_msg=name)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "ink.jpg", quality=100)  # full magenta + yellow = red
    loaded = load_image(tmp_path / "ink.jpg", 8, 8)
    np.testing.assert_allclose(loaded[4, 4].astype(int), [255, 0, 0], atol=6)


def test_box_is_drawn_outside_the_object_and_clipped() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    framed = draw_box(image, (5, 4, 10, 6))
    is_red = (framed == BOX_COLOUR).all(axis=-1)
    expected = np.zeros((20, 30), bool)
    expected[3:11, 4:16] = True
    expected[4:10, 5:15] = False  # the object's own pixels stay free
    np.testing.assert_array_equal(is_red, expected)
    assert not image.any()
    clipped = (draw_box(image, (0, 0, 30, 20)) == BOX_COLOUR).all(axis=-1)
    assert clipped[0].all()
    assert clipped[-1].all()
    assert clipped[:, 0].all()
    assert clipped[:, -1].all()


def test_an_oversized_image_is_an_error_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.png"
    Image.new("RGB", (30, 20)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # PIL refuses twice as many
    with pytest.raises(ValueError, match=r"map\.png: not a readable image file"):
        check_image(path, 20, 30)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_files_without_a_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ä.jpg").write_bytes(content)
    for read in (image_size, lambda path: load_image(path, 1, 1)):
        with pytest.raises(ValueError, match=r"ä\.jpg: not a readable image file"):
            read(tmp_path / "ä.jpg")


def test_a_damaged_orientation_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png", exif=b"Exif\0\0no TIFF header")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 5, 7), array)
    assert "a.png: the EXIF data is damaged" in caplog.text


def test_every_orientation_is_turned_upright(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
        with Image.open(tmp_path / "a.png") as raw:
            expected = np.asarray(ImageOps.exif_transpose(raw))
        np.testing.assert_array_equal(load_image(tmp_path / "a.png", *expected.shape[:2]), expected)


def test_the_first_picture_of_an_animation(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (6, 4), (255, 0, 0)), Image.new("RGB", (6, 4), (0, 0, 255))
    for name in ("a.gif", "a.webp"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        assert (load_image(tmp_path / name, 4, 6)[..., 0] > 200).all()


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image file can have this name"):
        image_size(tmp_path / ("n" * 300))


def test_images_are_told_apart_by_pixels_and_size() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    other = image.copy()
    other[1, 3, 2] += 1
    hashes = {hash_image(image), hash_image(other), hash_image(image.reshape(4, 2, 3)), hash_image(image[:, ::-1])}
    assert len(hashes) == 4
    assert hash_image(np.asfortranarray(image)) == hash_image(image)


def test_the_hash_of_an_image_never_changes() -> None:
    """It is the key of cached answers, cached embeddings and recorded known answers."""
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert hash_image(image) == hashlib.sha256(b"(2, 4, 3)" + bytes(range(24))).hexdigest()
