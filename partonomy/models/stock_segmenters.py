"""Open-vocabulary segmenters built from transformers' own classes: Grounded SAM 2, SAM 3, CLIPSeg, OWLv2 with SAM 2.

Each segmenter computes an image's features once. Phrases are separate queries: they share a call of the model as rows
of a batch, and the mask of a phrase does not depend on the others beyond rounding. A detector's boxes above the
threshold prompt SAM 2, and a phrase's mask is the union of their masks; without such a box it is empty.

Grounding DINO, OWLv2 and CLIPSeg images go through transformers' PIL processors, with or without torchvision installed.
SAM 2 and SAM 3 have only torchvision processors, so `stretch_image` does their preprocessing.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPSegForImageSegmentation,
    GroundingDinoForObjectDetection,
    MMGroundingDinoForObjectDetection,
    Owlv2ForObjectDetection,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Sam2Model,
    Sam3Model,
)
from transformers.image_processing_backends import PilBackend
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from partonomy.files import read_json
from partonomy.images import hash_image
from partonomy.models.finite_values import require_finite
from partonomy.models.segmenter_options import (
    CLIPSEG,
    DETECTOR,
    GROUNDED_SAM2,
    MASK_THRESHOLD,
    MODEL,
    OWLV2_SAM2,
    SAM,
    SAM3,
    THRESHOLD,
    SegmenterOptions,
)

KEPT_IMAGES: Final = 4
"""Number of images whose features are kept, the most recent ones."""
BOXES_PER_CALL: Final = 64
"""Maximum number of boxes in one call of SAM 2's mask decoder, which needs several MB of memory per box."""
PIXELS_PER_RESIZE: Final = 1 << 26
"""Maximum number of pixels of the masks that are resized to the image's size together; 256 MB."""
TOKENIZER_FILES: Final = ("tokenizer.json", "vocab.json", "vocab.txt")
"""The files of which a tokenizer needs at least one."""
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
HALF: Final = (0.5, 0.5, 0.5)

ModelT = TypeVar("ModelT", bound=PreTrainedModel)
T = TypeVar("T")


@dataclass(frozen=True)
class ReadImage:
    """An image prepared for a segmenter on the CPU.

    Attributes:
        key: Hash of the image.
        size: Height and width in pixels.
        inputs: Name of a model -> its pixel values, float32 [1, 3, h, w].
    """

    key: str
    size: tuple[int, int]
    inputs: Mapping[str, Tensor]


class StockSegmenter(ABC):
    """A segmenter of transformers' classes; see `OpenVocabularySegmenter` for its three methods.

    Args:
        folders: Option -> local folder of its model.
        options: Thresholds and batch size.
        dtype: torch's name of a dtype; "auto" is float32, because a threshold decides about every box and pixel.
    """

    def __init__(self, folders: Mapping[str, Path], options: SegmenterOptions, dtype: str) -> None:
        self.dtype: torch.dtype = torch.float32 if dtype == "auto" else getattr(torch, dtype)
        self._folders = folders
        self._options = options
        self._device = torch.device("cpu")
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._current: ReadImage | None = None

    @abstractmethod
    def load(self, device: str) -> None:
        """Load the weights and the tokenizer.

        Raises:
            ValueError: A folder lacks weights, or a file of it is damaged.
        """

    @abstractmethod
    def prepare(self, image: np.ndarray) -> dict[str, Tensor]:
        """Preprocess an image, uint8 RGB (H, W, 3), without using the device; see `ReadImage.inputs`."""

    @abstractmethod
    def encode(self, inputs: Mapping[str, Tensor]) -> Any:
        """Compute the features of an image that are independent of the phrases."""

    @abstractmethod
    def find(self, features: Any, phrases: Sequence[str], size: tuple[int, int]) -> np.ndarray:
        """Segment phrases, at most `phrases_per_call`, in one batch.

        Args:
            features: From `encode`.
            phrases: Texts, none of them blank.
            size: Height and width of the image in pixels.

        Returns:
            bool (len(phrases), H, W).
        """

    def read_image(self, image: np.ndarray) -> ReadImage:
        """Prepare an image, uint8 RGB (H, W, 3), without using the device."""
        return ReadImage(hash_image(image), (image.shape[0], image.shape[1]), self.prepare(image))

    def set_image(self, image: np.ndarray) -> None:
        """Set the current image; its features are computed unless they are kept."""
        self._current = self.read_image(image)

    def segment_phrases(self, phrases: Sequence[str]) -> np.ndarray:
        """Segment each phrase in the current image.

        Raises:
            ModelUnavailable: The model's values are not finite.
        """
        assert self._current is not None, "set_image comes first"
        return self.segment(self._current, phrases)

    @torch.inference_mode()
    def segment(self, read: ReadImage, phrases: Sequence[str]) -> np.ndarray:
        """Segment each phrase in an image; the mask of a blank phrase is empty.

        Args:
            read: The image, from `read_image`.
            phrases: Part names.

        Returns:
            bool (len(phrases), H, W), original-image pixels.

        Raises:
            ModelUnavailable: The model's values are not finite.
        """
        masks = np.zeros((len(phrases), *read.size), dtype=bool)
        asked = [place for place, phrase in enumerate(phrases) if phrase.strip()]
        if asked:
            features = self._features(read)
            for places in _chunks(asked, self._options.phrases_per_call):
                masks[places] = self.find(features, [phrases[place] for place in places], read.size)
        return masks

    def _features(self, read: ReadImage) -> Any:
        if read.key not in self._kept:
            inputs = {name: values.to(self._device, self.dtype) for name, values in read.inputs.items()}
            self._kept[read.key] = self.encode(inputs)
            if len(self._kept) > KEPT_IMAGES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(read.key)
        return self._kept[read.key]


class OneImageBackbone(nn.Module):
    """Stands in for Grounding DINO's image backbone: every row of a batch gets the features of the same image.

    transformers' class takes no features, and would compute those of the image once per phrase.

    Args:
        backbone: The model's own backbone.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.features: tuple[list[tuple[Tensor, Tensor]], list[Tensor]] | None = None

    @property
    def position_embedding(self) -> nn.Module:
        """The backbone's position embedding, which the model also calls by itself."""
        embedding: nn.Module = self.backbone.position_embedding  # type: ignore[assignment]
        return embedding

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        """Repeat the features [1, c, h, w], masks [1, h, w] and positions [1, c, h, w] for each row of the batch."""
        assert self.features is not None, "the features are set before the model is called"
        num_rows = len(pixel_values)
        maps, positions = self.features
        return [(_repeat(one, num_rows), _repeat(mask, num_rows)) for one, mask in maps], [
            _repeat(one, num_rows) for one in positions
        ]


class BoxSegmenter:
    """SAM 2 prompted by boxes.

    Args:
        folder: A SAM 2 model folder.
        device: Where it runs.
        dtype: Type of its weights.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self._model: Any = load_weights(Sam2Model, folder, device, dtype)

    def encode(self, pixel_values: Tensor) -> list[Tensor]:
        """Return the three feature maps of an image [1, 3, s, s]."""
        maps: list[Tensor] = self._model.get_image_embeddings(pixel_values)
        return maps

    def segment(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], size: tuple[int, int]) -> np.ndarray:
        """Return the union of the masks of each phrase's boxes.

        Args:
            maps: From `encode`.
            boxes: For each phrase float [k, 4], left, top, right and bottom as fractions of the image's width and
                height; k may be 0.
            size: Height and width of the image in pixels.

        Returns:
            bool (len(boxes), H, W).
        """
        masks = np.zeros((len(boxes), *size), dtype=bool)
        owner = [phrase for phrase, own in enumerate(boxes) for _ in range(len(own))]
        if not owner:
            return masks
        together = torch.cat(list(boxes)) * self._model.prompt_encoder.input_image_size
        for places in _chunks(range(len(owner)), BOXES_PER_CALL):
            prompts = together[places[0] : places[-1] + 1][None].to(maps[-1].dtype)
            output = self._model(image_embeddings=list(maps), input_boxes=prompts, multimask_output=False)
            logits = output.pred_masks[0, :, 0].float()  # [k, h, w]
            require_finite(logits, "mask logits", "SAM 2")
            for place, mask in zip(places, _resized(logits, size), strict=True):
                masks[owner[place]] |= (mask > 0).cpu().numpy()
        return masks


class GroundedSam2(StockSegmenter):
    """Grounding DINO finds boxes, SAM 2 segments them.

    A phrase is a text of its own: lower case, ending in a period (a row of the batch), so labels cannot mix. A box
    counts if the best of its token scores is above the threshold, as in transformers' post-processing; the text
    threshold there only picks the words of a label, and a row has only one label.
    """

    def load(self, device: str) -> None:
        """Load Grounding DINO and SAM 2; see `StockSegmenter.load`."""
        self._device = torch.device(device)
        folder = self._folders[DETECTOR]
        is_mm = read_json(folder / "config.json")["model_type"] == "mm-grounding-dino"
        kind = MMGroundingDinoForObjectDetection if is_mm else GroundingDinoForObjectDetection
        self._detector: Any = load_weights(kind, folder, self._device, self.dtype)
        self._backbone = OneImageBackbone(self._detector.model.backbone)
        self._detector.model.backbone = self._backbone
        self._tokenizer = load_tokenizer(folder)
        self._processor = load_processor(GroundingDinoImageProcessorPil, folder)
        self._sam = BoxSegmenter(self._folders[SAM], self._device, self.dtype)
        self._sam_size = sam2_size(self._folders[SAM])

    def prepare(self, image: np.ndarray) -> dict[str, Tensor]:
        """Resize for Grounding DINO with the aspect ratio kept, and for SAM 2 to a square."""
        pixels = self._processor(images=image, return_tensors="pt")["pixel_values"]
        return {DETECTOR: pixels, SAM: stretch_image(image, self._sam_size, IMAGENET_MEAN, IMAGENET_STD)}

    def encode(self, inputs: Mapping[str, Tensor]) -> Any:
        """Return the detector's pixels and backbone features, and SAM 2's maps."""
        pixels = inputs[DETECTOR]
        mask = torch.ones((1, *pixels.shape[-2:]), dtype=torch.long, device=pixels.device)
        return pixels, self._backbone.backbone(pixels, mask), self._sam.encode(inputs[SAM])

    def find(self, features: Any, phrases: Sequence[str], size: tuple[int, int]) -> np.ndarray:
        """Detect all phrases in one call, then segment all of their boxes."""
        pixels, backbone, maps = features
        self._backbone.features = backbone
        text = self._tokenizer(
            [as_caption(phrase) for phrase in phrases],
            padding=True,
            truncation=True,
            max_length=self._detector.config.max_text_len,
            return_token_type_ids=True,
            return_tensors="pt",
        ).to(self._device)
        output = self._detector(
            pixel_values=_repeat(pixels, len(phrases)),
            input_ids=text["input_ids"],
            token_type_ids=text["token_type_ids"],
            attention_mask=text["attention_mask"],
        )
        scores = output.logits.float().sigmoid().amax(-1)  # [n, queries]
        require_finite(scores, "box scores", "Grounding DINO")
        corners = _corners(output.pred_boxes.float())
        threshold = self._options.thresholds[THRESHOLD]
        boxes = [own[score > threshold] for own, score in zip(corners, scores, strict=True)]
        return self._sam.segment(maps, boxes, size)


class Owlv2Sam2(StockSegmenter):
    """OWLv2 finds boxes, SAM 2 segments them. OWLv2 pads the image to a square, and its boxes are of that square."""

    def load(self, device: str) -> None:
        """Load OWLv2 and SAM 2; see `StockSegmenter.load`."""
        self._device = torch.device(device)
        folder = self._folders[DETECTOR]
        self._detector: Any = load_weights(Owlv2ForObjectDetection, folder, self._device, self.dtype)
        self._tokenizer = load_tokenizer(folder)
        self._processor = load_processor(Owlv2ImageProcessorPil, folder)
        self._sam = BoxSegmenter(self._folders[SAM], self._device, self.dtype)
        self._sam_size = sam2_size(self._folders[SAM])

    def prepare(self, image: np.ndarray) -> dict[str, Tensor]:
        """Pad and resize for OWLv2, and resize for SAM 2 to a square."""
        pixels = self._processor(images=image, return_tensors="pt")["pixel_values"]
        return {DETECTOR: pixels, SAM: stretch_image(image, self._sam_size, IMAGENET_MEAN, IMAGENET_STD)}

    def encode(self, inputs: Mapping[str, Tensor]) -> Any:
        """Return OWLv2's patch features [1, patches, d] and boxes [patches, 4], and SAM 2's maps."""
        grid, _ = self._detector.image_embedder(pixel_values=inputs[DETECTOR])  # [1, rows, columns, d]
        patches = grid.flatten(1, 2)
        boxes = _corners(self._detector.box_predictor(patches, grid).float())[0]
        return patches, boxes, self._sam.encode(inputs[SAM])

    def find(self, features: Any, phrases: Sequence[str], size: tuple[int, int]) -> np.ndarray:
        """Compare all phrases with all patches, then segment the boxes above the threshold."""
        patches, boxes, maps = features
        text = encode_clip_text(self._tokenizer, phrases, self._detector.config.text_config, self._device)
        queries = self._detector.owlv2.get_text_features(**text).pooler_output
        queries = queries / torch.linalg.norm(queries, ord=2, dim=-1, keepdim=True)
        logits, _ = self._detector.class_predictor(patches, queries[None])  # [1, patches, n]
        scores = logits[0].float().sigmoid()
        require_finite(scores, "box scores", "OWLv2")
        height, width = size
        square = max(size)
        in_image = boxes * boxes.new_tensor([square / width, square / height, square / width, square / height])
        kept = [in_image[own > self._options.thresholds[THRESHOLD]] for own in scores.T]
        return self._sam.segment(maps, kept, size)


class Sam3(StockSegmenter):
    """SAM 3 prompted by text: the union of the instances whose score, times the phrase's presence, is high enough."""

    def load(self, device: str) -> None:
        """Load SAM 3; see `StockSegmenter.load`."""
        self._device = torch.device(device)
        folder = self._folders[MODEL]
        self._model: Any = load_weights(Sam3Model, folder, self._device, self.dtype)
        self._tokenizer = load_tokenizer(folder)

    def prepare(self, image: np.ndarray) -> dict[str, Tensor]:
        """Resize to a square."""
        return {MODEL: stretch_image(image, _side(self._model.config.image_size), HALF, HALF)}

    def encode(self, inputs: Mapping[str, Tensor]) -> Any:
        """Return the image's feature pyramid and its positions."""
        output = self._model.get_vision_features(pixel_values=inputs[MODEL])
        return output.fpn_hidden_states, output.fpn_position_encoding

    def find(self, features: Any, phrases: Sequence[str], size: tuple[int, int]) -> np.ndarray:
        """Segment all phrases in one call."""
        maps, positions = features
        num_rows = len(phrases)
        vision = Sam3VisionEncoderOutput(
            fpn_hidden_states=tuple(_repeat(one, num_rows) for one in maps),
            fpn_position_encoding=tuple(_repeat(one, num_rows) for one in positions),
        )
        text = encode_clip_text(self._tokenizer, phrases, self._model.config.text_config, self._device)
        output = self._model(vision_embeds=vision, **text)
        scores = output.pred_logits.float().sigmoid()  # [n, queries]
        if output.presence_logits is not None:
            scores = scores * output.presence_logits.float().sigmoid()
        require_finite(scores, "instance scores", "SAM 3")
        masks = np.zeros((num_rows, *size), dtype=bool)
        thresholds = self._options.thresholds
        for row, (score, logits) in enumerate(zip(scores, output.pred_masks, strict=True)):
            kept = logits[score > thresholds[THRESHOLD]].float().sigmoid()
            require_finite(kept, "mask logits", "SAM 3")
            for instance in _resized(kept, size):
                masks[row] |= (instance > thresholds[MASK_THRESHOLD]).cpu().numpy()
        return masks


class ClipSeg(StockSegmenter):
    """CLIPSeg: a probability per pixel, resized as a logit and cut at the threshold."""

    def load(self, device: str) -> None:
        """Load CLIPSeg; see `StockSegmenter.load`."""
        self._device = torch.device(device)
        folder = self._folders[MODEL]
        self._model: Any = load_weights(CLIPSegForImageSegmentation, folder, self._device, self.dtype)
        self._tokenizer = load_tokenizer(folder)
        self._processor = load_processor(ViTImageProcessorPil, folder)

    def prepare(self, image: np.ndarray) -> dict[str, Tensor]:
        """Resize to a square."""
        return {MODEL: self._processor(images=image, return_tensors="pt")["pixel_values"]}

    def encode(self, inputs: Mapping[str, Tensor]) -> Any:
        """Return the activations [1, tokens, d] that CLIPSeg's decoder reads."""
        output = self._model.clip.get_image_features(pixel_values=inputs[MODEL], output_hidden_states=True)
        return [output.hidden_states[layer + 1] for layer in self._model.extract_layers]  # 0 is the embedding

    def find(self, features: Any, phrases: Sequence[str], size: tuple[int, int]) -> np.ndarray:
        """Decode all phrases in one call."""
        num_rows = len(phrases)
        text = encode_clip_text(self._tokenizer, phrases, self._model.config.text_config, self._device)
        conditions = self._model.get_conditional_embeddings(batch_size=num_rows, **text)
        logits = self._model.decoder([_repeat(one, num_rows) for one in features], conditions).logits.float()
        require_finite(logits, "mask logits", "CLIPSeg")
        threshold = self._options.thresholds[THRESHOLD]
        return np.stack([(mask.sigmoid() > threshold).cpu().numpy() for mask in _resized(logits, size)])


SEGMENTERS: Final[Mapping[str, type[StockSegmenter]]] = {
    GROUNDED_SAM2: GroundedSam2,
    SAM3: Sam3,
    CLIPSEG: ClipSeg,
    OWLV2_SAM2: Owlv2Sam2,
}
"""Name of `--segmenter` -> its class."""


def stretch_image(image: np.ndarray, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Resize an image to a square, without keeping its aspect ratio, and normalize it.

    This is the preprocessing of transformers' `Sam2ImageProcessor` and `Sam3ImageProcessor`, which need torchvision.

    Args:
        image: uint8 RGB (H, W, 3).
        size: Side of the square in pixels.
        mean: Per channel, for values in [0, 1].
        std: Per channel, for values in [0, 1].

    Returns:
        float32 [1, 3, size, size].
    """
    pixels = torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    resized = interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)
    middle, spread = (255 * torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (resized.float() - middle) / spread


def as_caption(phrase: str) -> str:
    """Return a phrase as Grounding DINO reads it: lower case, one period, at the end.

    The model splits a text at periods and question marks, so the phrase's own become spaces.
    """
    return " ".join(phrase.lower().replace(".", " ").replace("?", " ").split()) + "."


def encode_clip_text(
    tokenizer: PreTrainedTokenizerBase, phrases: Sequence[str], config: Any, device: torch.device
) -> dict[str, Tensor]:
    """Tokenize phrases for a CLIP text encoder, padded and cut to its maximum length.

    Args:
        tokenizer: The model's tokenizer.
        phrases: Texts.
        config: Configuration of the text encoder.
        device: Where the encoder runs.

    Returns:
        `input_ids` and `attention_mask`, int64 [len(phrases), max_position_embeddings].
    """
    text = tokenizer(
        list(phrases),
        padding="max_length",
        truncation=True,
        max_length=config.max_position_embeddings,
        return_tensors="pt",
    )
    return {name: text[name].to(device) for name in ("input_ids", "attention_mask")}


def load_weights(kind: type[ModelT], folder: Path, device: torch.device, dtype: torch.dtype) -> ModelT:
    """Load a model folder; download nothing and run no code from it.

    Raises:
        ValueError: Weights are missing, of another shape, or damaged; transformers alone would leave them random.
    """
    read: Any = kind.from_pretrained
    try:
        model, report = read(folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"{folder}: a weight file is damaged ({error}); download it again") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} weights of a {kind.__name__}, the first is {missing[0]}")
    loaded: ModelT = model.to(device).eval()
    return loaded


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder.

    Raises:
        ValueError: The folder has none; transformers alone would build one without words.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(f"{folder} has no usable tokenizer (none of {', '.join(TOKENIZER_FILES)})")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} has no usable tokenizer ({_first_line(error)})") from error
    return tokenizer


def load_processor(kind: type[PilBackend], folder: Path) -> Any:
    """Load the image processor of a model folder, in transformers' PIL version.

    Raises:
        ValueError: The folder has none.
    """
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} has no usable preprocessor_config.json ({_first_line(error)})") from error


def sam2_size(folder: Path) -> int:
    """Return the side of SAM 2's square input in pixels, from its configuration."""
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    return _side(config.prompt_encoder_config.image_size)


def _side(size: Any) -> int:
    """Return the side of a square that a configuration gives as one number or two."""
    return int(size if isinstance(size, int) else size[0])


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _repeat(one: Tensor, num_rows: int) -> Tensor:
    """Repeat a tensor [1, ...] along its first dimension without copying it."""
    return one.expand(num_rows, *one.shape[1:])


def _corners(boxes: Tensor) -> Tensor:
    """Turn boxes [..., 4] from centre, width and height to left, top, right and bottom."""
    x, y, width, height = boxes.unbind(-1)
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=-1)


def _resized(values: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """Generate maps [n, h, w] resized to (H, W), bilinear."""
    num_together = max(1, PIXELS_PER_RESIZE // (size[0] * size[1]))
    for start in range(0, len(values), num_together):
        some = values[None, start : start + num_together]
        yield from interpolate(some, size, mode="bilinear", align_corners=False)[0]


def _chunks(values: Sequence[T], length: int) -> Iterator[list[T]]:
    for start in range(0, len(values), length):
        yield list(values[start : start + length])
