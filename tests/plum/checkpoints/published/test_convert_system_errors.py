"""Published checkpoints that are refused, what their messages say, and where a folder as published is met."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from plum.checkpoints.hub import _require_saved_model
from plum.checkpoints.published.convert_system import SystemRequest, convert_system
from plum.checkpoints.published.system_keys import SYSTEM_LAYOUTS, adapter_of
from plum.checkpoints.store import load_pretrained
from plum.cli.main import main
from plum.doctor.folders import examine_weights
from plum.models.tiny import tiny_model_config
from tests.plum.checkpoints.published.published_llava import write_sam
from tests.plum.checkpoints.published.published_systems import (
    make_glamm,
    make_lisa,
    make_plum,
    write_system,
    write_unmerged,
)
from tests.plum.doctor.runs import tiny_run

Change = Callable[[dict[str, Tensor]], object]


def attempt(tmp_path: Path, change: Change, **request: object) -> None:
    original = make_lisa()
    change(original.state)
    source, clip = write_system(tmp_path, original)
    convert_system(SystemRequest(source, clip, **request), tmp_path / "model")  # type: ignore[arg-type]


def drop(prefix: str) -> Change:
    def change(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if name.startswith(prefix)]:
            del state[name]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"model.extra": torch.ones(1)}), r"unknown tensor 'model.extra'"),
        (
            lambda s: s.update({"model.visual_model.extra.weight": torch.ones(1)}),
            r"model.visual_model.extra.weight does not belong to a model of its sizes",
        ),
        (
            lambda s: s.pop("model.visual_model.mask_decoder.iou_token.weight"),
            r"lacks 1 tensors: \['model.visual_model.mask_decoder.iou_token.weight'\]",
        ),
        (lambda s: s.pop("model.text_hidden_fcs.0.2.bias"), r"lacks 1 tensors: \['model.text_hidden_fcs.0.2.bias'\]"),
        (drop("model.text_hidden_fcs."), r"config.json says that it is like LISA.*has no tensor model.text_hidden_fcs"),
        (drop("model.visual_model.image_encoder."), r"lacks SAM's image_encoder: give --sam sam_vit_h_4b8939.pth"),
        (
            lambda s: s.update({"model.text_hidden_fcs.0.2.weight": torch.ones(15, 32)}),
            r"model.text_hidden_fcs.0.2.weight is \(15, 32\), but its config.json implies \(16, 32\)",
        ),
        (
            lambda s: s.update({"model.out_mm_projector.0.weight": torch.ones(2)}),
            r"is PixelLM, whose own mask decoder.*python -m partonomy import-predictions FILE",
        ),
        (
            lambda s: s.update({"bio_cross_attn.norm_ffn.weight": torch.ones(2)}),
            r"is PLUM trained with use_cross_attn_bio.*python -m partonomy import-predictions FILE",
        ),
        (lambda s: s.update({"lm.model.norm.weight": torch.ones(2)}), r"LISA's first code \(-v0\).*use the -v1"),
        (
            lambda s: s.update({"model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.ones(8, 32)}),
            r"the adapter of model.layers.0.self_attn.q_proj.weight has factors of the shapes.*an incomplete file",
        ),
    ],
)
def test_wrong_checkpoints_are_named(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attempt(tmp_path, change)
    assert not (tmp_path / "model").exists()
    assert not list(tmp_path.glob("model.partial"))


@pytest.mark.parametrize(
    ("request_options", "message"),
    [
        ({"keeps_feedback": True}, "is LISA, which has no mask feedback: omit --feedback"),
        ({"lora_alpha": 16}, "has no adapters: omit --lora_alpha"),
        ({"base": Path("llava")}, "has its own config.json and tokenizer: omit --base"),
        ({"sam": Path("sam.pth")}, "holds its own SAM: omit --sam"),
        ({"clip": None}, "holds no CLIP weights: give --clip FOLDER, a download of openai/clip-vit-large-patch14"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, request_options: dict[str, object], message: str) -> None:
    source, clip = write_system(tmp_path, make_lisa())
    request = replace(SystemRequest(source, clip), **request_options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        convert_system(request, tmp_path / "model")


def test_files_of_the_first_code_are_refused(tmp_path: Path) -> None:
    source, clip = write_system(tmp_path, make_lisa())
    torch.save({}, source / "pytorch_model-visual_model.bin")
    with pytest.raises(ValueError, match=r"LISA's first code \(-v0\)"):
        convert_system(SystemRequest(source, clip), tmp_path / "model")


def test_llava_alone_is_sent_to_its_own_command(tmp_path: Path) -> None:
    original = make_lisa()
    _, base = write_unmerged(tmp_path, original, {})
    with pytest.raises(ValueError, match=r"has no heads of PLUM.*LLaVA alone: python -m plum convert-llava"):
        convert_system(SystemRequest(base), tmp_path / "model")


def test_plum_writes_no_marks_and_needs_three_tags(tmp_path: Path) -> None:
    original = make_plum()
    original.state["model.token_to_mask_fcs.0.2.weight"] = torch.ones(1, 32)
    original.state["model.token_to_mask_fcs.0.2.bias"] = torch.ones(1)
    source, clip = write_system(tmp_path, original)
    with pytest.raises(ValueError, match=r"which writes no \[SEG\]: omit --targets"):
        convert_system(SystemRequest(source, clip, targets="many"), tmp_path / "model")
    with pytest.raises(ValueError, match=r"trained with pred_binary_span, which has 1 logit per token"):
        convert_system(SystemRequest(source, clip), tmp_path / "model")


def test_feedback_that_was_not_trained_is_not_kept(tmp_path: Path) -> None:
    original = make_plum()
    drop("mask_pooler.")(original.state)
    source, clip = write_system(tmp_path, original)
    with pytest.raises(ValueError, match=r"was trained without mask feedback: omit --feedback"):
        convert_system(SystemRequest(source, clip, keeps_feedback=True), tmp_path / "model")
    drop("bio_encoder.")(original.state)
    (tmp_path / "second").mkdir()
    source, clip = write_system(tmp_path / "second", original)
    tagger = convert_system(SystemRequest(source, clip), tmp_path / "model").config.tagger
    assert tagger is not None
    assert tagger.context == "none"


def test_another_base_is_refused(tmp_path: Path) -> None:
    original = make_lisa(with_clip=True)
    checkpoint, base = write_unmerged(tmp_path, original, {})
    with pytest.raises(ValueError, match=r"no config.json and no tokenizer: give --base LLAVA_FOLDER"):
        convert_system(SystemRequest(checkpoint), tmp_path / "model")
    (base / "added_tokens.json").write_text('{"<one more>": 420}')
    with pytest.raises(ValueError, match=r"has 423 embedding rows, but the tokenizer of .* has 424 tokens"):
        convert_system(SystemRequest(checkpoint, base=base), tmp_path / "model")


def test_sams_file_gives_the_part_that_is_missing(tmp_path: Path) -> None:
    whole = make_lisa()
    source, clip = write_system(tmp_path, whole)
    convert_system(SystemRequest(source, clip), tmp_path / "whole")
    (tmp_path / "frozen").mkdir()
    drop("model.visual_model.image_encoder.")(whole.state)
    source, clip = write_system(tmp_path / "frozen", whole)
    sam = write_sam(tmp_path / "sam.pth")
    result = convert_system(SystemRequest(source, clip, sam), tmp_path / "model")
    assert any(f"image_encoder from {sam}" in note for note in result.notes)
    expected = load_pretrained(tmp_path / "whole").model.state_dict()
    for name, tensor in load_pretrained(tmp_path / "model").model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_dropped_bug_is_told(tmp_path: Path) -> None:
    source, clip = write_system(tmp_path, make_lisa(), legacy=False)
    result = convert_system(SystemRequest(source, clip), tmp_path / "model")
    assert any("legacy is false" in note and "<unk>" in note for note in result.notes)


def test_a_published_folder_is_answered_with_its_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, clip = write_system(tmp_path, make_glamm(), legacy=False)
    command = f"python -m plum convert {source} NEW_FOLDER --clip CLIP_FOLDER"
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    asked = ["--image", str(tmp_path / "x.png"), "--question", "What is it?", "--output", str(tmp_path / "y")]
    for arguments in (["segment", "--checkpoint", str(source), *asked], ["export", str(source), str(tmp_path / "z")]):
        assert main(arguments) == 1
        assert command in capsys.readouterr().err
    run = replace(tiny_run(tiny_model_config(40)), init_from=str(source))
    finding = examine_weights(run, tmp_path / "hashes.json", is_quiet=True)[0]
    assert finding.to_do.startswith(command)
    with pytest.raises(ValueError, match="hf download owner/model --local-dir FOLDER; python -m plum convert FOLD"):
        _require_saved_model("owner/model", source)
    assert main(["convert", str(source), str(tmp_path / "model"), "--clip", str(clip), "--targets", "many"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "System: GLaMM",
        "Left out: model.region_encoder.* (2 tensors)",
        "template: glamm; CLIP's square: crop",
        "targets: many",
    ):
        assert part in printed
    using = ["segment", "--checkpoint", str(tmp_path / "model"), *asked, "--max_new_tokens", "4"]
    assert main(using) == 0
    assert main(["convert", str(source), str(tmp_path / "model"), "--clip", str(clip)]) == 1
    assert "exists" in capsys.readouterr().err


def test_an_unmerged_file_alone_is_answered_with_its_command(tmp_path: Path) -> None:
    checkpoint, _ = write_unmerged(tmp_path, make_lisa(with_clip=True), {})
    with pytest.raises(FileNotFoundError, match=r"convert .*pytorch_model.bin NEW_FOLDER --base LLAVA_FOLDER"):
        load_pretrained(checkpoint)


@pytest.mark.parametrize("system", SYSTEM_LAYOUTS, ids=lambda system: system.name)
def test_every_prefix_leads_back(system: object) -> None:
    from plum.checkpoints.published.system_keys import SystemLayout

    assert isinstance(system, SystemLayout)
    for prefix, own in system.prefixes:
        name = f"{prefix}17.weight"
        assert system.own_name(name) == f"{own}17.weight"
        assert system.own_name(f"base_model.model.{name}") == f"{own}17.weight"
        assert system.published_name(f"{own}17.weight") == name


def test_names_of_adapters_are_read_as_both_versions_of_peft_write_them() -> None:
    for name in (
        "base_model.model.model.layers.3.mlp.up_proj.lora_B.default.weight",
        "model.layers.3.mlp.up_proj.lora_B.weight",
    ):
        found = adapter_of(name)
        assert found is not None
        assert (found.target, found.side) == ("model.layers.3.mlp.up_proj.weight", "B")
    assert adapter_of("model.layers.3.mlp.up_proj.weight") is None
    assert SYSTEM_LAYOUTS[-1].own_name("base_model.model.model.layers.3.self_attn.q_proj.base_layer.weight") == (
        "llava.network.model.language_model.layers.3.self_attn.q_proj.weight"
    )
