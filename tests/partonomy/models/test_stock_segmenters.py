"""Segmenters of transformers' classes, compared with transformers' own forward passes and post-processing."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPSegForImageSegmentation,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    MMGroundingDinoForObjectDetection,
    Owlv2ForObjectDetection,
    Sam2Model,
    Sam3Model,
)
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from partonomy.__main__ import main as partonomy
from partonomy.harness.summary import read_summary
from partonomy.models.contract import BatchedModel, MaskRequest, ModelUnavailable, Role, Turn
from partonomy.models.open_vocabulary import StockOpenVocabularyModel, load_open_vocabulary_model
from partonomy.models.segmenter_options import NAMED_SEGMENTERS, parse_named_options
from partonomy.models.stock_segmenters import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    KEPT_IMAGES,
    StockSegmenter,
    as_caption,
    load_tokenizer,
    stretch_image,
)
from partonomy.structures import CharSpan, QuestionType
from tests.partonomy.conftest import write_questions
from tests.partonomy.models import tiny_segmenters
from tests.partonomy.running import question_records, untimed
from validate_partonomy import main

PHRASES = ("Wheel", "tail fin")
MM_THRESHOLD = 0.01
TURNS = (Turn(Role.USER, "Which parts?"),)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each model."""
    root = tmp_path_factory.mktemp("models")
    return {
        "dino": tiny_segmenters.save_grounding_dino(root / "dino"),
        "sam2": tiny_segmenters.save_sam2(root / "sam2"),
        "sam1": tiny_segmenters.save_sam1(root / "sam1"),
        "sam3": tiny_segmenters.save_sam3(root / "sam3"),
        "clipseg": tiny_segmenters.save_clipseg(root / "clipseg"),
        "owlv2": tiny_segmenters.save_owlv2(root / "owlv2"),
    }


def options_of(name: str, folders: dict[str, Path], **further: object) -> dict[str, object]:
    """The options of a segmenter, with thresholds at which the random weights tell phrases and places apart."""
    chosen: dict[str, dict[str, object]] = {
        "grounded_sam2": {"detector": str(folders["dino"]), "sam": str(folders["sam2"]), "threshold": 0.97},
        "owlv2_sam2": {"detector": str(folders["owlv2"]), "sam": str(folders["sam2"]), "threshold": 0.76},
        "sam3": {"model": str(folders["sam3"]), "threshold": 0.2, "mask_threshold": 0.5025},
        "clipseg": {"model": str(folders["clipseg"]), "threshold": 0.5},
    }
    return chosen[name] | further


def load(name: str, folders: dict[str, Path], **further: object) -> StockOpenVocabularyModel:
    model = load_open_vocabulary_model(name, "cpu", json.dumps(options_of(name, folders, **further)))
    assert isinstance(model, StockOpenVocabularyModel)
    return model


def segmenter_of(model: StockOpenVocabularyModel) -> Any:
    """The segmenter inside, whose parts the tests count and compare."""
    return model._stock


def picture(seed: int = 0, height: int = 40, width: int = 60) -> np.ndarray:
    """Noise with a red rectangle."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[10:30, 12:32] = (220, 20, 20)
    return image


def plain_boxes(folder: Path, image: np.ndarray, boxes: torch.Tensor) -> np.ndarray:
    """SAM 2's masks of boxes in pixels, one box a call, image and box through the whole model."""
    model = Sam2Model.from_pretrained(folder)
    height, width = image.shape[:2]
    union = np.zeros((height, width), dtype=bool)
    for box in boxes:
        scaled = box * torch.tensor([64 / width, 64 / height, 64 / width, 64 / height])
        pixels = stretch_image(image, 64, IMAGENET_MEAN, IMAGENET_STD)
        logits = model(pixel_values=pixels, input_boxes=scaled[None, None], multimask_output=False).pred_masks[0, 0, 0]
        resized = torch.nn.functional.interpolate(
            logits[None, None], (height, width), mode="bilinear", align_corners=False
        )
        union |= (resized[0, 0] > 0).numpy()
    return union


def plain_grounded(folders: dict[str, Path], image: np.ndarray, phrase: str) -> np.ndarray:
    folder = folders["dino"]
    processor = GroundingDinoProcessor(GroundingDinoImageProcessorPil.from_pretrained(folder), load_tokenizer(folder))
    inputs = processor(images=image, text=f"{phrase.lower()}.", return_tensors="pt")
    output = GroundingDinoForObjectDetection.from_pretrained(folder)(**inputs)
    (found,) = processor.post_process_grounded_object_detection(
        output, inputs["input_ids"], threshold=0.97, text_threshold=0.25, target_sizes=[image.shape[:2]]
    )
    assert 0 < len(found["boxes"]) < 12
    return plain_boxes(folders["sam2"], image, found["boxes"])


def plain_owlv2(folders: dict[str, Path], image: np.ndarray, phrase: str) -> np.ndarray:
    folder = folders["owlv2"]
    images = Owlv2ImageProcessorPil.from_pretrained(folder)
    text = load_tokenizer(folder)(phrase, padding="max_length", max_length=6, truncation=True, return_tensors="pt")
    output = Owlv2ForObjectDetection.from_pretrained(folder)(
        input_ids=text["input_ids"],
        attention_mask=text["attention_mask"],
        pixel_values=images(images=image, return_tensors="pt")["pixel_values"],
    )
    (found,) = images.post_process_object_detection(output, threshold=0.76, target_sizes=[image.shape[:2]])
    assert 0 < len(found["boxes"]) < 16
    return plain_boxes(folders["sam2"], image, found["boxes"])


def plain_sam3(folders: dict[str, Path], image: np.ndarray, phrase: str) -> np.ndarray:
    folder = folders["sam3"]
    text = load_tokenizer(folder)(phrase, padding="max_length", max_length=8, return_tensors="pt")
    output = Sam3Model.from_pretrained(folder)(
        pixel_values=stretch_image(image, 56, HALF, HALF),
        input_ids=text["input_ids"],
        attention_mask=text["attention_mask"],
    )
    scores = output.pred_logits.sigmoid()[0] * output.presence_logits.sigmoid()[0]
    kept = output.pred_masks[0, scores > 0.2].sigmoid()
    assert 0 < len(kept) < 10
    resized = torch.nn.functional.interpolate(kept[None], image.shape[:2], mode="bilinear", align_corners=False)[0]
    return (resized > 0.5025).any(0).numpy()


def plain_clipseg(folders: dict[str, Path], image: np.ndarray, phrase: str) -> np.ndarray:
    folder = folders["clipseg"]
    pixels = ViTImageProcessorPil.from_pretrained(folder)(images=image, return_tensors="pt")["pixel_values"]
    text = load_tokenizer(folder)(phrase, return_tensors="pt")
    logits = CLIPSegForImageSegmentation.from_pretrained(folder)(
        input_ids=text["input_ids"], attention_mask=text["attention_mask"], pixel_values=pixels
    ).logits
    resized = torch.nn.functional.interpolate(
        logits.reshape(1, 1, 32, 32), image.shape[:2], mode="bilinear", align_corners=False
    )
    return (resized[0, 0].sigmoid() > 0.5).numpy()


PLAIN: dict[str, Callable[[dict[str, Path], np.ndarray, str], np.ndarray]] = {
    "grounded_sam2": plain_grounded,
    "owlv2_sam2": plain_owlv2,
    "sam3": plain_sam3,
    "clipseg": plain_clipseg,
}


@pytest.mark.parametrize("size", [(40, 60), (60, 40)])
@pytest.mark.parametrize("name", NAMED_SEGMENTERS)
@torch.inference_mode()
def test_masks_equal_those_of_the_plain_models(folders: dict[str, Path], name: str, size: tuple[int, int]) -> None:
    image = picture(0, *size)
    found = segmenter_of(load(name, folders))
    found.set_image(image)
    masks = found.segment_phrases(PHRASES)
    assert (masks.dtype, masks.shape) == (np.bool_, (2, *size))
    assert (masks[0] != masks[1]).any() or (name, size) == ("owlv2_sam2", (60, 40))
    for mask, phrase in zip(masks, PHRASES, strict=True):
        assert mask.any()
        np.testing.assert_array_equal(mask, PLAIN[name](folders, image, phrase))


@torch.inference_mode()
def test_mm_grounding_dino_and_the_published_form_of_sam2_are_taken(tmp_path: Path, folders: dict[str, Path]) -> None:
    detector = tiny_segmenters.save_grounding_dino(tmp_path / "mm", is_mm=True)
    sam = tiny_segmenters.save_sam2_video(tmp_path / "video", folders["sam2"])
    options = {"detector": str(detector), "sam": str(sam), "threshold": MM_THRESHOLD}
    found = segmenter_of(load_open_vocabulary_model("grounded_sam2", "cpu", json.dumps(options)))
    image = picture()
    found.set_image(image)
    masks = found.segment_phrases(PHRASES)
    pixels = GroundingDinoImageProcessorPil.from_pretrained(detector)(images=image, return_tensors="pt")
    model = MMGroundingDinoForObjectDetection.from_pretrained(detector)
    for mask, phrase in zip(masks, PHRASES, strict=True):
        text = load_tokenizer(detector)(f"{phrase.lower()}.", return_tensors="pt")
        output = model(**pixels, input_ids=text["input_ids"])
        centre = output.pred_boxes[0, output.logits[0].sigmoid().amax(-1) > MM_THRESHOLD]
        assert 0 < len(centre) < 12
        size = torch.tensor([60, 40])
        corners = torch.cat([(centre[:, :2] - centre[:, 2:] / 2) * size, (centre[:, :2] + centre[:, 2:] / 2) * size], 1)
        np.testing.assert_array_equal(mask, plain_boxes(folders["sam2"], image, corners))


@contextmanager
def counted(modules: dict[str, torch.nn.Module]) -> Iterator[dict[str, list[int]]]:
    """Note the batch size of every call of some modules."""
    calls: dict[str, list[int]] = {name: [] for name in modules}

    def note(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            first = next(value for value in (*arguments, *named.values()) if isinstance(value, torch.Tensor))
            calls[name].append(len(first))

        return hook

    handles = [module.register_forward_hook(note(name), with_kwargs=True) for name, module in modules.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def parts_of(segmenter: Any) -> dict[str, torch.nn.Module]:
    """The modules that read the image, and the one that reads all phrases."""
    match type(segmenter).__name__:
        case "GroundedSam2":
            detector, sam = segmenter._detector, segmenter._sam._model
            return {"image": segmenter._backbone.backbone, "sam": sam.vision_encoder, "text": detector}
        case "Owlv2Sam2":
            detector, sam = segmenter._detector.owlv2, segmenter._sam._model
            return {"image": detector.vision_model, "sam": sam.vision_encoder, "text": detector.text_model}
        case "Sam3":
            return {"image": segmenter._model.vision_encoder, "text": segmenter._model.text_encoder}
        case _:
            return {"image": segmenter._model.clip.vision_model, "text": segmenter._model.clip.text_model}


@pytest.mark.parametrize("name", NAMED_SEGMENTERS)
def test_phrases_share_a_call_and_the_features_of_their_image(folders: dict[str, Path], name: str) -> None:
    phrases = ["wheel", "left wing of the hull", "door", "tail fin", "a"]
    images = [picture(seed) for seed in range(KEPT_IMAGES)]
    found = segmenter_of(load(name, folders))
    with counted(parts_of(found)) as calls:
        together = []
        for image in images:
            found.set_image(image)
            together.append(found.segment_phrases(phrases))
        found.set_image(images[0].copy())
        alone = np.stack([found.segment_phrases([phrase])[0] for phrase in phrases])
    np.testing.assert_array_equal(alone, together[0])
    assert calls.pop("text") == [len(phrases)] * len(images) + [1] * len(phrases)
    assert set(map(tuple, calls.values())) == {(1,) * len(images)}
    small = segmenter_of(load(name, folders, phrases_per_call=2))
    with counted(parts_of(small)) as calls:
        small.set_image(images[0])
        np.testing.assert_array_equal(small.segment_phrases(phrases), together[0])
    assert calls["text"] == [2, 2, 1]
    assert calls["image"] == [1]


@torch.inference_mode()
def test_scores_of_a_batch_equal_those_of_single_phrases(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding a row to the longest phrase of its batch changes scores by rounding alone."""
    import partonomy.models.stock_segmenters as module

    noted: list[torch.Tensor] = []
    monkeypatch.setattr(module, "require_finite", lambda values, what, weights: noted.append(values))
    phrases = ["wheel", "left wing of the hull", "no. 1 door?"]
    for name in NAMED_SEGMENTERS:
        found = segmenter_of(load(name, folders))
        found.set_image(picture())
        noted.clear()
        found.segment_phrases(phrases)
        together = noted[0] if name != "owlv2_sam2" else noted[0].T
        noted.clear()
        singles = []
        for phrase in phrases:
            noted.clear()
            found.segment_phrases([phrase])
            singles.append(noted[0] if name != "owlv2_sam2" else noted[0].T)
        torch.testing.assert_close(torch.cat(singles), together, atol=2e-5, rtol=0)


def test_no_box_above_the_threshold_is_an_empty_mask(folders: dict[str, Path]) -> None:
    for name in ("grounded_sam2", "owlv2_sam2", "sam3"):
        found = segmenter_of(load(name, folders, threshold=0.9999999))
        found.set_image(picture())
        masks = found.segment_phrases(["wheel", "door"])
        assert masks.shape == (2, 40, 60)
        assert not masks.any()
    assert not segmenter_of(load("clipseg", folders)).segment(found._current, [" ", "\n"]).any()


def test_a_caption_is_one_text_of_grounding_dino() -> None:
    assert as_caption("  No. 1 Door? ") == "no 1 door."
    assert as_caption("wheel.") == "wheel."


def test_stretching_is_bilinear_resizing_with_antialiasing() -> None:
    for size in ((100, 150), (30, 20)):
        image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
        resized = np.array(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR), dtype=np.float64)
        expected = (resized / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
        found = stretch_image(image, 64, IMAGENET_MEAN, IMAGENET_STD)[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(found, expected, atol=1.01 / 255 / min(IMAGENET_STD))  # one grey level


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_stretching_equals_the_processors_of_torchvision() -> None:
    from transformers import Sam2ImageProcessor, Sam3ImageProcessor

    for size in ((480, 640), (1300, 900)):
        image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
        for processor, side, mean, std in (
            (Sam2ImageProcessor(), 1024, IMAGENET_MEAN, IMAGENET_STD),
            (Sam3ImageProcessor(), 1008, HALF, HALF),
        ):
            expected = processor(images=image, return_tensors="pt")["pixel_values"]
            torch.testing.assert_close(stretch_image(image, side, mean, std), expected, atol=1e-5, rtol=0)


def test_a_batch_of_images_has_the_masks_of_single_requests(folders: dict[str, Path]) -> None:
    model = load("grounded_sam2", folders)
    assert isinstance(model, BatchedModel)
    answer = "It has a wing, a tail fin and a wing."
    spans = (CharSpan(9, 13), CharSpan(17, 25), CharSpan(32, 36))
    images = [picture(0), picture(1, 30, 50)]
    requests = [
        MaskRequest(1, TURNS, answer, spans[:2]),
        MaskRequest(0, TURNS, answer, spans),
        MaskRequest(1, TURNS, answer, ()),
        MaskRequest(1, TURNS, "door", (CharSpan(0, 4),)),
    ]
    expected = [model.segment(images[one.image], TURNS, one.answer, one.spans) for one in requests]
    found = segmenter_of(model)
    found._kept.clear()
    with counted(parts_of(found)) as calls:
        masks = model.open_batch([model.read_image(image) for image in images]).segment(requests)
    assert calls == {"image": [1, 1], "sam": [1, 1], "text": [2, 3]}  # wing and tail fin; wing, tail fin and door
    for ours, theirs in zip(masks, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@dataclass
class Run:
    """The flags of a run of a segmenter on a small data set."""

    questions: Path
    output: Path
    name: str
    options: dict[str, object]

    def flags(self) -> list[str]:
        model = ["--model", "open_vocabulary", "--segmenter", self.name]
        model += ["--segmenter_options", json.dumps(self.options), "--device", "cpu"]
        return [*model, "--questions", str(self.questions), "--output", str(self.output)]


def small_run(tmp_path: Path, name: str, folders: dict[str, Path]) -> Run:
    types = (QuestionType.IDENTIFICATION, QuestionType.IDENTIFICATION_WITH_LABEL, QuestionType.PART_TO_WHOLE)
    return Run(write_questions(tmp_path, types, num_images=3), tmp_path / "run", name, options_of(name, folders))


@pytest.mark.parametrize("name", NAMED_SEGMENTERS)
def test_run_records_options_and_has_masks_alone(tmp_path: Path, folders: dict[str, Path], name: str) -> None:
    run = small_run(tmp_path, name, folders)
    assert partonomy(["run", "partonomy", *run.flags()]) == 0
    summary = read_summary(run.output / "summary.json")
    recorded = summary.provenance["config"]
    assert json.loads(recorded["model"]["segmenter_options"]) == {**run.options, "phrases_per_call": 8}
    assert len(recorded["checkpoint_hash"]) == 64
    assert summary.provenance["model"] == f"open_vocabulary:{name}"
    assert (summary.provenance["dtype"], summary.provenance["device"]) == ("torch.float32", "cpu")
    for group in ("identification", "identification_with_label", "part_to_whole"):
        entry = summary.groups[group]
        assert (entry.num_expected, entry.num_failed) == (3, 0)
        for metric, estimate in entry.metrics.items():
            assert (estimate.value is not None) == metric.startswith(("giou", "ciou", "authors_giou")), metric
    assert all(record.segmentation is not None for record in question_records(run.output))


def test_a_run_reads_each_image_once(tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run(tmp_path, "grounded_sam2", folders)
    encoded, found = [], []
    plain_encode, plain_find = StockSegmenter._features, StockSegmenter.segment

    def note_encode(self: Any, read: Any) -> Any:
        encoded.append(read.key in self._kept)
        return plain_encode(self, read)

    def note_find(self: Any, read: Any, phrases: Sequence[str]) -> np.ndarray:
        found.append(len(phrases))
        return plain_find(self, read, phrases)

    monkeypatch.setattr(StockSegmenter, "_features", note_encode)
    monkeypatch.setattr(StockSegmenter, "segment", note_find)
    main(run.flags())
    assert encoded == [False] * 3
    assert found == [1, 2, 3]  # image i has questions about the same i + 1 parts


def test_resuming_compares_thresholds_and_weights_but_not_folders(tmp_path: Path, folders: dict[str, Path]) -> None:
    run = small_run(tmp_path, "grounded_sam2", folders)
    main(run.flags())
    records = untimed(run.output)
    kept = (run.output / "records.jsonl").read_text().splitlines(keepends=True)
    (run.output / "records.jsonl").write_text("".join(kept[:4]))
    (run.output / "summary.json").unlink()
    other = Run(run.questions, run.output, run.name, run.options | {"threshold": 0.3})
    with pytest.raises(SystemExit, match=r"model\.segmenter_options\.threshold \(was 0\.97, now 0\.3\)"):
        main([*other.flags(), "--resume"])
    moved = shutil.copytree(folders["sam2"], tmp_path / "moved")
    same = Run(run.questions, run.output, run.name, run.options | {"sam": str(moved), "phrases_per_call": 1})
    assert main([*same.flags(), "--resume"]) is not None
    assert untimed(run.output) == records
    weights = load_file(moved / "model.safetensors")
    save_file({name: value + 1e-3 for name, value in weights.items()}, moved / "model.safetensors", {"format": "pt"})
    with pytest.raises(SystemExit, match=r"different settings: checkpoint_hash \(was"):
        main([*same.flags(), "--resume"])


def test_broken_weights_end_the_run(tmp_path: Path, folders: dict[str, Path]) -> None:
    broken = shutil.copytree(folders["clipseg"], tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in weights if "film_mul" in name)
    save_file(weights | {name: weights[name] * float("nan")}, broken / "model.safetensors", {"format": "pt"})
    model = load_open_vocabulary_model("clipseg", "cpu", json.dumps({"model": str(broken)}))
    with pytest.raises(ModelUnavailable, match="weights of CLIPSeg give NaN mask logits"):
        model.segment(picture(), TURNS, "wing", (CharSpan(0, 4),))


TAKES = (
    r"grounded_sam2 takes detector \(folder or Hub name of a grounding-dino or mm-grounding-dino model\), sam \(folder"
)


@pytest.mark.parametrize(
    "case",
    [
        ("grounded_sam2", {"treshold": 0.3}, rf"grounded_sam2 has no option 'treshold'; {TAKES}"),
        ("grounded_sam2", {"sam": None}, rf"grounded_sam2 needs the option 'sam'; {TAKES}"),
        ("grounded_sam2", {"detector": 3}, rf"'detector' must be a folder or a Hub name, got 3; {TAKES}"),
        ("grounded_sam2", {"threshold": "0.3"}, r"'threshold' must be a number in \[0, 1\), got '0.3'"),
        ("grounded_sam2", {"threshold": 1}, r"'threshold' must be a number in \[0, 1\), got 1"),
        ("grounded_sam2", {"threshold": True}, r"'threshold' must be a number in \[0, 1\), got True"),
        ("grounded_sam2", {"threshold": float("nan")}, r"'threshold' must be a number in \[0, 1\), got nan"),
        ("sam3", {"mask_threshold": -0.1}, r"'mask_threshold' must be a number in \[0, 1\), got -0.1"),
        ("clipseg", {"mask_threshold": 0.5}, "clipseg has no option 'mask_threshold'; clipseg takes model "),
        ("clipseg", {"phrases_per_call": 0}, "'phrases_per_call' must be a whole number of at least 1, got 0"),
        ("clipseg", {"phrases_per_call": 2.5}, "'phrases_per_call' must be a whole number of at least 1, got 2.5"),
        ("owlv2_sam2", {"detector": "dino"}, "dino holds a model of type 'grounding-dino'; owlv2_sam2 needs owlv2 "),
        ("owlv2_sam2", {"sam": "sam1"}, "sam1 holds a model of type 'sam'; owlv2_sam2 needs sam2 or sam2_video "),
        ("grounded_sam2", {"sam": "sam3"}, "sam3 holds a model of type 'sam3'; grounded_sam2 needs sam2 or sam2_video"),
        ("sam3", {"model": "sam2"}, "sam2 holds a model of type 'sam2'; sam3 needs sam3 or sam3_video there"),
        ("clipseg", {"model": "nothing"}, "nothing is not a model folder: no config.json"),
        ("clipseg", {"model": "/not/there"}, "'model': /not/there is not a folder"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, folders: dict[str, Path], capsys: pytest.CaptureFixture[str], case: tuple[Any, ...]
) -> None:
    name, change, message = case
    (tmp_path / "nothing").mkdir()
    places = {**folders, "nothing": tmp_path / "nothing"}
    changed = {key: str(places[value]) if value in places else value for key, value in change.items()}
    options = {key: value for key, value in options_of(name, folders, **changed).items() if value is not None}
    run = Run(write_questions(tmp_path, (QuestionType.IDENTIFICATION,), 1), tmp_path / "run", name, options)
    assert partonomy(["run", "partonomy", *run.flags()]) == 1
    printed = capsys.readouterr().err
    assert re.search(message, printed), printed
    assert printed.count("\n") == 1
    assert not run.output.exists()


def test_a_model_that_the_hub_does_not_deliver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(name: str, allow_patterns: Sequence[str]) -> str:
        raise OSError(f"no {name}\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    message = (
        r"'model': some-lab/clipseg is not a folder, and the Hugging Face Hub does not deliver it \(OSError: no "
        r"some-lab/clipseg and more lines\)"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load_open_vocabulary_model("clipseg", "cpu", '{"model": "some-lab/clipseg"}')


def test_a_model_of_the_hub_comes_from_its_cache(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(folders[name[4:]]))
    model = load_open_vocabulary_model("clipseg", "cpu", '{"model": "lab/clipseg"}')
    expected = load("clipseg", folders).segment(picture(), TURNS, "wing", (CharSpan(0, 4),))
    np.testing.assert_array_equal(model.segment(picture(), TURNS, "wing", (CharSpan(0, 4),)), expected)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("tokenizer", "has no usable tokenizer"),
        ("preprocessor_config", "has no usable preprocessor_config.json"),
    ],
)
def test_an_incomplete_folder_is_named(tmp_path: Path, folders: dict[str, Path], remove: str, message: str) -> None:
    folder = shutil.copytree(folders["clipseg"], tmp_path / "copy")
    for path in folder.glob(f"{remove}*"):
        path.unlink()
    with pytest.raises(ValueError, match=f"copy {message}"):
        load_open_vocabulary_model("clipseg", "cpu", json.dumps({"model": str(folder)}))


def test_missing_weights_are_named(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = shutil.copytree(folders["clipseg"], tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    del weights["decoder.film_mul.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lacks 1 weights of a CLIPSegForImageSegmentation, .*decoder.film_mul.weight"
    ):
        load_open_vocabulary_model("clipseg", "cpu", json.dumps({"model": str(folder)}))


class Fixed:
    """A class of the user's own whose constructor takes options."""

    def __init__(self, value: bool, label: str = "x") -> None:
        self.value, self.label = value, label
        self._shape = (0, 0)

    def load(self, device: str) -> None:
        """Nothing."""

    def set_image(self, image: np.ndarray) -> None:
        """Note the size."""
        self._shape = image.shape[:2]

    def segment_phrases(self, phrases: Sequence[str]) -> np.ndarray:
        """Return full or empty masks."""
        return np.full((len(phrases), *self._shape), self.value)


OWN = f"{Fixed.__module__}:Fixed"


def test_options_are_the_arguments_of_a_class_and_are_compared(tmp_path: Path) -> None:
    questions = write_questions(tmp_path, (QuestionType.IDENTIFICATION,), 2)
    run = Run(questions, tmp_path / "run", OWN, {"value": True, "label": "a"})
    main(run.flags())
    areas = {record.segmentation.masks[0].counts for record in question_records(run.output) if record.segmentation}
    assert len(areas) == 1
    other = Run(questions, run.output, OWN, {"label": "b", "value": True})
    with pytest.raises(SystemExit, match=r"model\.segmenter_options\.label \(was 'a', now 'b'\)"):
        main([*other.flags(), "--resume"])
    reordered = Run(questions, run.output, OWN, {"label": "a", "value": True})
    assert main([*reordered.flags(), "--resume"]) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (None, r"cannot be built with no arguments \(missing a required argument: 'value'\); see --segmenter_options"),
        ('{"value": true, "labl": 1}', "cannot be built with the arguments labl, value .*unexpected keyword argument"),
        ("[1]", "--segmenter_options must be a JSON object"),
        ("{", "--segmenter_options is not JSON"),
    ],
)
def test_options_that_a_class_does_not_take_are_refused(options: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_open_vocabulary_model(OWN, "cpu", options)


def test_defaults_are_written_out() -> None:
    options = parse_named_options("sam3", '{"model": "facebook/sam3", "threshold": 0.3}')
    assert json.loads(options.to_json()) == {
        "model": "facebook/sam3",
        "threshold": 0.3,
        "mask_threshold": 0.5,
        "phrases_per_call": 8,
    }
