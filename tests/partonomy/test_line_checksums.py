"""Lines with checksums: a flipped bit is noticed wherever it leaves a line valid, and lines without one are taken."""

import json

import pytest

from partonomy.line_checksums import CHECKSUM_KEY, add_checksum, require_checksum

LINE = json.dumps({"item_id": "7:wing", "text": "é, wing", "mask_confidence": 0.25}, ensure_ascii=False)


def test_a_line_keeps_its_values_and_passes() -> None:
    signed = add_checksum(LINE)
    content = json.loads(signed)
    assert list(content)[-1] == CHECKSUM_KEY
    del content[CHECKSUM_KEY]
    assert content == json.loads(LINE)
    for ending in ("", "\n"):
        require_checksum((signed + ending).encode())


def test_every_flipped_bit_of_the_content_is_noticed() -> None:
    signed = (add_checksum(LINE) + "\n").encode()
    size = len(LINE.encode()) - 1
    for place in range(size):
        for bit in range(8):
            damaged = bytearray(signed)
            damaged[place] ^= 1 << bit
            with pytest.raises(ValueError, match="its checksum differs"):
                require_checksum(bytes(damaged))
    for place in range(size + len('", "crc32": "') - 1, len(signed) - 3):  # the digits themselves
        damaged = bytearray(signed)
        damaged[place] ^= 1
        with pytest.raises(ValueError, match="its checksum differs"):
            require_checksum(bytes(damaged))


@pytest.mark.parametrize(
    "line", [LINE, "{}", "", '{"crc32": "00000000"}', '{"text": ", \\"crc32\\": \\"00000000\\"}"}']
)
def test_a_line_without_a_checksum_is_taken(line: str) -> None:
    require_checksum(line.encode())


def test_a_lone_surrogate_is_signed_as_it_is_written() -> None:
    signed = add_checksum('{"text": "\ud800"}')
    require_checksum(signed.encode("utf-8", errors="backslashreplace"))
