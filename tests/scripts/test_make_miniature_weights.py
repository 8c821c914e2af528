"""The miniature's weights convert to exactly the model that the miniature's configuration asks for."""

import sys
from pathlib import Path

import pytest

from plum.checkpoints.published.convert_llava import ConversionRequest, convert_llava
from scripts import make_miniature_weights


def test_the_written_weights_are_the_overlays_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["make_miniature_weights.py", "--output", str(tmp_path / "weights")]
    monkeypatch.setattr(sys, "argv", arguments)
    make_miniature_weights.main()
    expected = make_miniature_weights.read_sizes()
    llava, sam = tmp_path / "weights" / "llava-miniature", tmp_path / "weights" / "sam_miniature.pth"
    request = ConversionRequest(llava, sam, conversation=make_miniature_weights.BASE_CONVERSATION, expected=expected)
    converted = convert_llava(request, tmp_path / "base")  # refuses weights of other sizes than expected
    assert converted.config.sam == expected.sam
    # 500 pieces, <image> and padding: 502, rounded up to a multiple of 64.
    assert converted.config.llava.language.vocab_size == expected.llava.language.vocab_size == 512
    with pytest.raises(SystemExit):
        make_miniature_weights.main()
