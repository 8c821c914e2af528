"""The measurements of one device: all are planned, failures are recorded, and what is compared is equal."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from plum.models.parameter_counts import count_components
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import add_written_tokens, with_special_tokens
from scripts.bench import gpu, layers, measurements, segmenters, vocabulary
from scripts.bench.families import compare, make_predictor
from scripts.bench.measurements import Measurement
from scripts.bench.sizes import Size, read_tokenizer, training_config, write_tokenizers
from scripts.bench.stock_checkpoints import ARCHITECTURES, TextSizes

ROOT = Path(__file__).resolve().parents[3]


def test_a_training_step_is_measured_first_and_every_script_exists() -> None:
    planned = measurements.plan(["7b", "qwen3_vl_4b", "calico_7b"], 6, 10, 4)
    assert (planned[0].script, planned[0].arguments[:2]) == ("gpu.py", ("--size", "7b"))
    assert {one.script for one in planned} == {"gpu.py", "segmenters.py", "eval.py", "vocabulary.py"}
    assert all((ROOT / measurements.BENCH / one.script).is_file() for one in planned)
    assert [one.arguments[1] for one in planned if one.script == "segmenters.py"] == ["vit_h", "hiera_large"]
    assert not any("calico_7b" in one.arguments for one in planned if one.script == "eval.py")
    small = measurements.plan(["small", "small_qwen3_vl"], 1, 1, 1)
    assert [one.arguments[1] for one in small if one.script == "segmenters.py"] == ["small_sam", "small_sam2"]


def test_a_failure_is_recorded_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = {
        "good.py": "print('noise'); print('{\"seconds\": 1}')",
        "bad.py": "import sys; print('{\"first\": 2}', file=sys.stderr); raise RuntimeError('CUDA out of memory')",
        "slow.py": "import time; time.sleep(60)",
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(measurements, "BENCH", tmp_path)
    order = ("bad.py", "slow.py", "good.py")
    monkeypatch.setattr(measurements, "plan", lambda *_: [Measurement(name, name, ()) for name in order])
    measurements.main(["small"], output=str(tmp_path / "gpu.json"), limit=5)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    bad, slow, good = json.loads((tmp_path / "gpu.json").read_text())
    assert printed == [bad, slow, good]
    assert "CUDA out of memory" in bad["failed"]
    assert bad["printed"] == [{"first": 2}]
    assert slow["failed"] == "over 5 s"
    assert good["result"] == {"seconds": 1}
    monkeypatch.setattr(measurements, "plan", lambda *_: [Measurement("bad.py", "bad.py", ())])
    with pytest.raises(SystemExit):
        measurements.main(["small"], output=str(tmp_path / "gpu.json"))


@pytest.mark.parametrize("size", ["qwen3_vl_4b", "small_qwen3_vl", "calico_7b", "small_calico", "small", "7b"])
def test_every_size_is_a_model(size: Size, tmp_path: Path) -> None:
    write_tokenizers(tmp_path, ["the front wheel", "a wing and a tail"])
    config = training_config(size, 1, tmp_path)
    tokenizer = read_tokenizer(config)
    add_written_tokens(config.model, tokenizer)
    with torch.device("meta"):
        model = build_model(with_special_tokens(config.model, tokenizer))
    counts = {one.component: one.num_parameters for one in count_components(model)}
    if size == "qwen3_vl_4b":  # 4.02 billion in the language model with its tied words, .41 in the tower
        language = counts["qwen3_vl.language_model"] + counts["qwen3_vl.embeddings"]
        assert language / 1e9 == pytest.approx(4.02, abs=0.01)
        assert (counts["qwen3_vl.vision_tower"] + counts["qwen3_vl.projector"]) / 1e9 == pytest.approx(0.415, abs=0.01)
        assert counts["sam.image_encoder"] / 1e6 == pytest.approx(213, abs=2)  # Hiera-large


def test_both_attentions_are_timed_and_the_setting_is_restored() -> None:
    seen = []

    def objective(_batch: object) -> object:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return SimpleNamespace(total=torch.ones((), requires_grad=True))

    objective.zero_grad = lambda **_: None  # type: ignore[attr-defined]
    run = SimpleNamespace(objective=objective, device=torch.device("cpu"))
    before = torch.backends.cuda.cudnn_sdp_enabled()
    seconds = gpu.time_attention(run, [SimpleNamespace(to=lambda _: None)])  # type: ignore[arg-type, list-item]
    assert list(seconds) == ["cudnn", "without_cudnn"]
    assert seen == [True, True, False, False]
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_the_registry_gives_what_the_loop_gives() -> None:
    torch.manual_seed(0)
    found = layers.compare(layers.build(64, 2), 9, 1)
    assert found["deviation"] == 0
    assert found["ratio"] > 0


@pytest.mark.parametrize("family", ["qwen3_vl", "idefics3"])
def test_both_ways_of_scoring_a_family_are_equal(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = TextSizes(64, 128, 2, 4, 2, max_positions=2048, deviation=0.02)
    predictor = make_predictor(ARCHITECTURES[family](tmp_path / family, sizes=sizes))
    assert predictor.model.backbone.hidden_size == 64
    found = compare(predictor, 2, 1, 0)
    assert found["deviation"] < 1e-4
    assert found["ratio"] > 0


@pytest.mark.parametrize("way", vocabulary.WAYS)
def test_losses_of_large_vocabularies_are_equal(way: str) -> None:
    whole, gradients = vocabulary.measure("whole", 40, 300, 0)
    found, others = vocabulary.measure(way, 40, 300, 0)
    assert found["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.01 * float(one.abs().max()))


@pytest.mark.parametrize("size", ["small_sam", "small_sam2"])
def test_the_reference_of_a_segmenter_is_another_way(
    size: segmenters.SegmenterSize, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["segmenters.py"])
    segmenters.main(size=size, batch=1, repeats=1)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < result["deviation"] < 1e-4, "equal up to rounding, and not the same computation"
    assert result["images_per_second"] > 0
