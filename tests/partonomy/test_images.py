"""Images in the frame of their annotations, and the drawn box."""

import hashlib
import io
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from partonomy.images import (
    BOX_COLOUR,
    EXIF_ORIENTATION,
    MAX_PIXELS_VARIABLE,
    check_image,
    draw_box,
    hash_image,
    image_size,
    load_image,
    load_label_map,
)

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


def read_map(path: Path) -> np.ndarray:
    return load_label_map(path, path)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
OTHER_FORMATS = {
    "PostScript": POSTSCRIPT,
    "PostScript ": b"\xc5\xd0\xd3\xc6" + POSTSCRIPT,
    "PDF": b"%PDF-1.7\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "Photoshop": b"8BPS\0\x01",
    "AVIF": b"\0\0\0\x20ftypavif\0\0\0\0avifmif1",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "an icon": b"\0\0\x01\0\x01\0",
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
@pytest.mark.parametrize(
    "read", [image_size, lambda path: load_label_map(path, path), lambda path: load_image(path, 8, 8)]
)
def test_files_of_other_formats_are_refused_by_name_and_start_no_process(
    tmp_path: Path, name: str, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PIL starts Ghostscript for PostScript, whatever the file's name."""
    started: list[object] = []
    for starter in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, starter, lambda *words, **options: started.append(words))
    monkeypatch.setattr(os, "system", started.append)
    path = tmp_path / "photo.jpg"
    path.write_bytes(OTHER_FORMATS[name])
    with pytest.raises(ValueError, match=rf"photo\.jpg: .*it holds [^;]*{name.strip()}.*JPEG, PNG.* are read"):
        read(path)
    assert not started


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif", "mpo", "ppm"])
def test_every_known_format_is_read_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    grey = Image.new("RGB", (6, 4), (200, 200, 200))
    options: dict[str, Any] = {"save_all": True, "append_images": [grey]} if suffix == "mpo" else {}
    grey.save(tmp_path / f"a.{suffix}", **options)
    path = (tmp_path / f"a.{suffix}").rename(tmp_path / "photo.txt")
    np.testing.assert_allclose(load_image(path, 4, 6).astype(int), 200, atol=4)


def test_images_are_opened_in_one_place_only() -> None:
    root = Path(__file__).parents[2]
    opened = re.compile(
        r"\bImage\.open\b|\bimport open\b|cv2\.(imread|imdecode)|iio\.|imageio|skimage\.io|read_image\(.*mode"
    )
    places = [
        f"{path.relative_to(root).as_posix()}: {line.strip()}"
        for package in ("partonomy", "plum", "scripts")
        for path in sorted((root / package).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if opened.search(line)
    ]
    assert places == ["partonomy/images.py: return Image.open(file, formats=FORMATS)"]


def test_the_size_is_compared_before_a_pixel_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photo(tmp_path / "a.png", (7, 5))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    for read in (load_image, check_image):
        with pytest.raises(ValueError, match=r"a\.png: the image is 5 x 7 .*its annotation 64 x 64"):
            read(tmp_path / "a.png", 64, 64)
    assert image_size(tmp_path / "a.png") == (5, 7)
    check_image(tmp_path / "a.png", 5, 7)


@pytest.mark.parametrize(
    "read", [image_size, lambda path: load_label_map(path, path), lambda path: load_image(path, 20, 30)]
)
def test_the_most_pixels_are_a_setting(
    tmp_path: Path, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "map.png"
    Image.new("L", (30, 20)).save(path)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "600")
    read(path)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "599")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(
        ValueError, match=r"map\.png: .*the image has 20 x 30 pixels .*more than the 599 .*make it smaller"
    ):
        read(path)
    for wrong in ("0", "-1", "many", "178956971", "9" * 5000):
        monkeypatch.setenv(MAX_PIXELS_VARIABLE, wrong)
        with pytest.raises(ValueError, match=f"{MAX_PIXELS_VARIABLE} must be a number from 1 to 178956970"):
            read(path)


def test_a_large_image_gives_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL warns in several lines on standard error above a half of the size that it refuses."""
    write_photo(tmp_path / "a.png", (15, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    code = "import sys, pathlib; from PIL import Image; Image.MAX_IMAGE_PIXELS = 100; from partonomy.images import *; "
    code += "load_image(pathlib.Path(sys.argv[1]), 10, 15)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.png"], capture_output=True, text=True, check=True)
    assert done.stderr == ""


DEEP = np.concatenate([np.arange(0, 65_536, 97), np.arange(65_000, 65_536)]).astype(np.uint16)


def deep_file(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Write random 16-bit values with OpenCV, channels in its order, and return them in RGB order."""
    values = np.random.default_rng(1).permutation(np.resize(DEEP, int(np.prod(shape)))).reshape(shape)
    assert cv2.imwrite(str(path), values, [cv2.IMWRITE_TIFF_COMPRESSION, 1 if "plain" in path.name else 5])
    return values if values.ndim == 2 else values[..., 2::-1]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "plain.tif"])
@pytest.mark.parametrize("channels", [(), (3,), (4,)])
def test_16_bit_values_are_rounded_to_the_nearest(tmp_path: Path, name: str, channels: tuple[int, ...]) -> None:
    values = deep_file(tmp_path / name, (40, 30, *channels))
    expected = np.rint(values / 257).astype(np.uint8)
    expected = np.stack([expected] * 3, axis=-1) if not channels else expected
    np.testing.assert_array_equal(load_image(tmp_path / name, 40, 30), expected)


def test_16_bit_grey_with_alpha_is_rounded_too(tmp_path: Path) -> None:
    values = np.resize(DEEP, (20, 30))
    rows = b"".join(b"\0" + np.stack([row, ~row], axis=-1).astype(">u2").tobytes() for row in values)
    write_png(tmp_path / "a.png", (20, 30), 16, 4, rows)
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 20, 30), np.stack([expected] * 3, axis=-1))


def test_a_large_image_is_converted_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partonomy.images.BAND_PIXELS", 70)
    values = deep_file(tmp_path / "a.png", (41, 30, 3))
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 41, 30), np.rint(values / 257).astype(np.uint8))
    grey = deep_file(tmp_path / "b.png", (41, 30))
    np.testing.assert_array_equal(load_image(tmp_path / "b.png", 41, 30)[..., 2], np.rint(grey / 257).astype(np.uint8))
    array = write_photo(tmp_path / "c.png", (30, 41))
    np.testing.assert_array_equal(load_image(tmp_path / "c.png", 41, 30), array)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_deep_image_needs_little_more_memory_than_its_pixels(tmp_path: Path, channels: tuple[int, ...]) -> None:
    side = 4000
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((side, side, *channels), 40_000, np.uint16))
    code = (
        "import resource, sys, pathlib; from partonomy.images import load_image; path = pathlib.Path(sys.argv[1]); "
        "load_image(path.with_name('small.png'), 2, 2); "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024; before = peak(); "
        f"load_image(path, {side}, {side}); print(peak() - before)"
    )
    cv2.imwrite(str(tmp_path / "small.png"), np.full((2, 2, *channels), 40_000, np.uint16))
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2 * side * side * 2 * (3 if channels else 2)


def test_16_bit_files_with_8_bit_values(tmp_path: Path) -> None:
    dim = np.array([[0, 128], [200, 255]], np.uint16)
    Image.fromarray(dim).save(tmp_path / "dim.png")
    np.testing.assert_array_equal(load_image(tmp_path / "dim.png", 2, 2)[..., 1], dim)


def test_32_bit_grey_is_scaled_where_its_white_is_known(tmp_path: Path) -> None:
    for name, values, expected in (
        ("deep", np.array([[0, 65_535], [128, 300]], np.int32), [[0, 255], [0, 1]]),
        ("plain", np.array([[0, 255], [3, 200]], np.int32), [[0, 255], [3, 200]]),
        ("unit", np.array([[0, 1], [0.5, 0.25]], np.float32), [[0, 255], [128, 64]]),
        ("floats", np.array([[0, 255], [2.4, 2.6]], np.float32), [[0, 255], [2, 3]]),
    ):
        Image.fromarray(values).save(tmp_path / f"{name}.tif")
        np.testing.assert_array_equal(load_image(tmp_path / f"{name}.tif", 2, 2)[..., 0], expected, err_msg=name)


@pytest.mark.parametrize(
    "values", [np.array([[-1, 5]], np.int32), np.array([[0, 70_000]], np.int32), np.array([[0, np.nan]], np.float32)]
)
def test_32_bit_grey_of_unknown_white_is_refused(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif: the grey values .* which of them is white is not known"):
        load_image(tmp_path / "a.tif", 1, 2)


def test_transparency_is_dropped_and_unknown_colours_are_refused(tmp_path: Path) -> None:
    grey = Image.fromarray(np.array([[0, 128], [200, 255]], np.uint8))
    Image.merge("LA", (grey, Image.new("L", (2, 2), 0))).save(tmp_path / "la.png")
    palette = grey.convert("P")
    palette.save(tmp_path / "palette.png", transparency=128)
    grey.save(tmp_path / "key.png", transparency=200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("la", "palette", "key"):
            np.testing.assert_array_equal(
                load_image(tmp_path / f"{name}.png", 2, 2)[..., 0], np.asarray(grey), err_msg=name
            )
    Image.new("LAB", (2, 2)).save(tmp_path / "lab.tif")
    with pytest.raises(ValueError, match=r"lab\.tif: images of the colour mode LAB are not read"):
        load_image(tmp_path / "lab.tif", 2, 2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["tif", "jpg", "webp", "png"])
def test_the_orientation_is_applied_once_in_every_format(tmp_path: Path, suffix: str, orientation: int) -> None:
    """PIL turns TIFF files itself, the others not."""
    array = np.kron(np.arange(6).reshape(2, 3) * 40, np.ones((16, 16))).astype(np.uint8)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(array).save(path, exif=exif)
    with Image.open(io.BytesIO(path.read_bytes())) as raw:
        upright = np.asarray(ImageOps.exif_transpose(raw).convert("RGB"))
    assert upright.shape[:2] == (array.shape if orientation < 5 else array.shape[::-1])
    assert image_size(path) == upright.shape[:2]
    np.testing.assert_array_equal(load_image(path, *upright.shape[:2]), upright)
    if orientation >= 5:
        stored = load_image(path, *array.shape)[..., 0].astype(int)
        np.testing.assert_allclose(stored[8::16, 8::16], array[8::16, 8::16], atol=8)
        check_image(path, *array.shape)


def test_the_orientation_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    array = write_photo(tmp_path / "a.png", (7, 5), ROTATED_QUARTER)
    content = (tmp_path / "a.png").read_bytes()
    at = content.index(b"eXIf") - 4
    chunk = content[at : at + 12 + int.from_bytes(content[at : at + 4])]
    end = content.index(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(content[:at] + content[at + len(chunk) : end] + chunk + content[end:])
    assert image_size(tmp_path / "a.png") == (7, 5)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 7, 5), np.rot90(array, k=-1))


@pytest.mark.parametrize("claim", [(100_000, 100_000), (16_000, 16_000)])
def test_a_claimed_size_is_refused_without_memory(tmp_path: Path, claim: tuple[int, int]) -> None:
    write_png(tmp_path / "bomb.png", claim, 16, 6, b"\0" * 100)
    for read in (image_size, lambda path: load_label_map(path, path), lambda path: load_image(path, *claim)):
        with pytest.raises(ValueError, match=r"bomb\.png: .*") as refused:
            read(tmp_path / "bomb.png")
        assert "\n" not in str(refused.value)


def write_png(path: Path, size: tuple[int, int], bits: int, colour_type: int, rows: bytes) -> None:
    """Write a PNG of any header, (height, width) and filtered rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size[1], size[0], bits, colour_type, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
