"""Many codes checked at once are checked as each alone, whatever stands beside them."""

import numpy as np
import pytest

from partonomy.masks import (
    BATCH_CHARACTERS,
    MAX_PIXELS,
    decode_runs,
    encode_mask,
    find_sound_codes,
    find_sound_masks,
    read_compressed_runs,
    read_sound_codes,
    rle_from_coco,
    rle_to_json,
)
from partonomy.structures import RLE

HEIGHT, WIDTH = 9, 14
NUM_PIXELS = HEIGHT * WIDTH


def is_sound_alone(code: str, num_pixels: int) -> bool:
    try:
        return bool((read_compressed_runs(code, num_pixels, "here")[1:] > 0).all())
    except ValueError:
        return False


def random_codes(number: int) -> list[str]:
    """Codes of random masks, most of them with a letter changed, cut, or two of them in one."""
    dice = np.random.default_rng(number)
    codes = []
    for _ in range(400):
        mask = dice.random((HEIGHT, WIDTH)) < dice.choice([0.0, 0.03, 0.5, 1.0])
        code = encode_mask(mask).counts
        kind, place = int(dice.integers(6)), int(dice.integers(len(code)))
        if kind == 1:
            code = code[:place] + chr(int(dice.integers(40, 120))) + code[place + 1 :]
        elif kind == 2:
            code = code[:place]
        elif kind == 3:
            code = code[:place] + "P" * int(dice.integers(1, 20)) + code[place:]
        elif kind == 4:
            code += code
        codes.append(code)
    return codes


@pytest.mark.parametrize("number", range(5))
def test_codes_beside_each_other_are_checked_as_alone(number: int) -> None:
    codes = [*random_codes(number), "", "é1", "0", "\0", "o" * 30]
    expected = [is_sound_alone(code, NUM_PIXELS) for code in codes]
    assert find_sound_codes(codes, [NUM_PIXELS] * len(codes)).tolist() == expected
    assert 50 < sum(expected) < len(codes) - 50


def test_more_codes_than_a_batch_holds() -> None:
    code = encode_mask(np.random.default_rng(0).random((300, 300)) < 0.5).counts
    codes = [code] * (3 * BATCH_CHARACTERS // len(code))
    codes[1::7] = ["1"] * len(codes[1::7])
    expected = [one == code for one in codes]
    assert find_sound_codes(codes, [90_000] * len(codes)).tolist() == expected
    assert find_sound_codes([], []).tolist() == []


def test_runs_that_only_add_up_beyond_64_bits_are_refused() -> None:
    """16 numbers of 2^34, each added to the last but one: huge runs, of which a sum could be anything."""
    code = "".join("PPPPPP8" for _ in range(16))  # seven groups: 8 << 30 = 2^33
    assert decode_runs(code).tolist()[:5] == [2**33, 2**33, 2**33, 2**34, 2**34]
    for num_pixels in (NUM_PIXELS, MAX_PIXELS):
        assert not find_sound_codes([code], [num_pixels])[0]
        with pytest.raises(ValueError, match="here: the compressed run lengths sum to"):
            read_compressed_runs(code, num_pixels, "here")


def test_only_plain_codes_of_image_sizes_are_read_at_once() -> None:
    rle = encode_mask(np.eye(HEIGHT, WIDTH, dtype=bool))
    plain = rle_to_json(rle)
    others: list[object] = [
        None, [], [[0, 0, 4, 0, 4, 4]], plain | {"size": [WIDTH, HEIGHT + 1]}, plain | {"size": [True, 1]},
        plain | {"size": (HEIGHT, WIDTH)}, plain | {"size": [-HEIGHT, -WIDTH]}, plain | {"size": [2**40, 2**40]},
        plain | {"polygon": [0, 0, 4, 0, 4, 4]}, {"segmentation": plain}, plain | {"counts": b"0"}, {"size": [1, 1]},
    ]  # fmt: skip
    assert read_sound_codes([plain, *others, plain]) == [rle, *[None] * len(others), rle]
    assert rle_from_coco(plain, HEIGHT, WIDTH, "here") == rle


def test_masks_of_impossible_sizes_are_not_sound() -> None:
    sound = encode_mask(np.zeros((2, 3), dtype=bool))
    assert find_sound_masks([sound, None, RLE(0, 0, "0"), RLE(-2, -3, sound.counts), sound]) == [
        True, False, False, False, True,
    ]  # fmt: skip
