"""Checkpoint folders of transformers with random weights, one per architecture, made without any download."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<image>\n' }}"
    "{% else %}{{ content['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""The published LLaVA-1.5 checkpoints' manner: no begin token, no end token, a space behind every text."""

IDEFICS_TEMPLATE = (
    "<s>{% for message in messages %}{{ message['role'].capitalize() + ':' }}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<image>' }}"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""The published Idefics3 checkpoints' manner: begin token written, every utterance ended, then a line break."""

QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ content['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The published Qwen2-VL checkpoints' manner."""

INTERN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<IMG_CONTEXT>\n{% else %}{{ content['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The published InternVL checkpoints' manner (the -hf ones)."""

GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<start_of_image>' }}{% else %}{{ content['text'] | trim }}{% endif %}"
    "{% endfor %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""The published Gemma 3 checkpoints' manner."""

TEXTS = (
    "USER: What visible parts does the biplane have? ASSISTANT: It has a front wheel, a wheel and a propeller.",
    "User: What is the object in the image? Assistant: It is a seaplane. It has wing, tail fin, door.",
)


def tiny_tokenizer(*special: str, texts: Sequence[str] = TEXTS) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer; `<s>`, `</s>`, `<pad>` and the given tokens are special."""
    tokens = ["<pad>", "<s>", "</s>", *special]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=400, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )


def save_llava(folder: Path) -> Path:
    """LLaVA: a CLIP tower of 16 x 16 pixels in 4 patches, a LLaMA of two layers."""
    tokenizer = tiny_tokenizer("<image>")
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        ),
        text_config=_language(len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    model = LlavaForConditionalGeneration(config)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return _save(model, processor, folder)


def save_idefics3(folder: Path) -> Path:
    """Idefics3: the image whole and in tiles, with row and column tokens and line breaks between them."""
    tokenizer = _idefics3_tokenizer()
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}),
        tokenizer,
        image_seq_len=1,
        chat_template=IDEFICS_TEMPLATE,
    )
    torch.manual_seed(0)
    config = Idefics3Config(
        vision_config=_idefics3_vision(),
        text_config=_language(len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    model = Idefics3ForConditionalGeneration(config)
    end = tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    return _save(model, processor, folder)


def keep_tokens(folder: Path, tokens: Sequence[str] = tuple("ABCDE")) -> Path:
    """Change a saved checkpoint so that its next token is almost always one of some tokens, added if it lacks them."""
    model = AutoModelForImageTextToText.from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    if tokenizer.add_tokens([token for token in tokens if token not in tokenizer.get_vocab()]):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        tokenizer.save_pretrained(folder)
    weight = model.get_output_embeddings().weight
    is_kept = torch.zeros(len(weight), 1)
    is_kept[tokenizer.convert_tokens_to_ids(list(tokens))] = 1
    with torch.no_grad():
        weight.mul_(is_kept)
    model.save_pretrained(folder)
    return folder


def _idefics3_tokenizer() -> PreTrainedTokenizerFast:
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    return tiny_tokenizer("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *places)


def _idefics3_vision() -> dict[str, object]:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return sizes | {"image_size": 16, "patch_size": 8}


def save_qwen(folder: Path, family: str) -> Path:
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Qwen3.5: positions in three dimensions, image tokens by the image's size."""
    marks = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    others = ("<|endoftext|>",) if family == "qwen3_5" else ()  # its tokenizer's class adds this one
    tokenizer = tiny_tokenizer("<|im_start|>", "<|im_end|>", *marks, *others)
    tokenizer.eos_token = "<|im_end|>"
    image_id, video_id, start_id, end_id = (tokenizer.convert_tokens_to_ids(mark) for mark in marks)
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}
    text = _language(len(tokenizer)).to_dict() | {"model_type": f"{family}_text", "rope_parameters": rope}
    vision = {"depth": 2, "num_heads": 2, "patch_size": 4}
    ids = {"image_token_id": image_id, "video_token_id": video_id}
    ids |= {"vision_start_token_id": start_id, "vision_end_token_id": end_id}
    torch.manual_seed(0)
    model: torch.nn.Module
    if family == "qwen3_5":
        text |= {"head_dim": 16, "num_hidden_layers": 3, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
        text |= {
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "rope_parameters": rope | {"mrope_section": [1, 1, 0]},
        }
        text |= {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
        vision |= {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32, "num_position_embeddings": 64}
        model = Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision, **ids))
    elif family == "qwen2_vl":
        vision |= {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
    elif family == "qwen2_5_vl":
        vision |= {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32, "window_size": 16}
        vision |= {"fullatt_block_indexes": [1]}
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
    else:
        text["head_dim"] = 8
        vision |= {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32, "num_position_embeddings": 64}
        vision |= {"deepstack_visual_indexes": [0]}
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids))
    images = Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 64, "longest_edge": 1024})
    name = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor"}.get(family, "Qwen3VLProcessor")
    return _save_with_videos(
        model, tokenizer, images, folder, template=QWEN_TEMPLATE, settings={"processor_class": name}
    )


def save_gemma3(folder: Path) -> Path:
    """Gemma 3: four tokens an image, which attend to each other both ways; one layer sees the last 16 tokens."""
    marks = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    # Line breaks merge, so that those around an image and those of the template are one token.
    tokenizer = tiny_tokenizer("<start_of_turn>", "<end_of_turn>", *marks.values(), texts=[*TEXTS, *["\n\n\n"] * 9])
    tokenizer.init_kwargs["extra_special_tokens"] = marks
    tokenizer._set_model_specific_special_tokens(special_tokens=marks)
    torch.manual_seed(0)
    text = _language(len(tokenizer)).to_dict() | {"model_type": "gemma3_text", "head_dim": 8}
    text |= {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
    text |= {"query_pre_attn_scalar": 8, "num_hidden_layers": 2}
    text.pop("rope_parameters", None)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = sizes | {"image_size": 16, "patch_size": 4, "vision_use_head": False}
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_id=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_id=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        tie_word_embeddings=False,
    )
    model = Gemma3ForConditionalGeneration(config)
    with torch.no_grad():
        model.model.multi_modal_projector.mm_input_projection_weight.normal_()  # zeros if not trained
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    images = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    processor = Gemma3Processor(images, tokenizer, chat_template=GEMMA_TEMPLATE, image_seq_length=4)
    return _save(model, processor, folder)


def save_internvl(folder: Path) -> Path:
    """InternVL: tiles of 16 x 16 pixels and the whole image, each one token; text by Qwen2."""
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    marks |= {"video_token": "<video>"}
    tokenizer = tiny_tokenizer("<|im_start|>", "<|im_end|>", *marks.values())
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.init_kwargs["extra_special_tokens"] = marks
    tokenizer._set_model_specific_special_tokens(special_tokens=marks)
    torch.manual_seed(0)
    text = _language(len(tokenizer)).to_dict() | {"model_type": "qwen2"}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": [16, 16],
        "patch_size": [8, 8],
        "initializer_range": 0.2,
        "layer_scale_init_value": 1.0,
    }
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=1,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    images = GotOcr2ImageProcessorPil(
        size={"height": 16, "width": 16}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    model = InternVLForConditionalGeneration(config)
    settings = {"processor_class": "InternVLProcessor", "image_seq_length": 1}
    return _save_with_videos(model, tokenizer, images, folder, template=INTERN_TEMPLATE, settings=settings)


def save_onevision(folder: Path) -> Path:
    """LLaVA-OneVision: the whole image and its tiles, cut to the image's shape, with a new-line token per row."""
    tokenizer = tiny_tokenizer("<|im_start|>", "<|im_end|>", "<image>", "<video>")
    tokenizer.eos_token = "<|im_end|>"
    torch.manual_seed(0)
    text = _language(len(tokenizer)).to_dict() | {"model_type": "qwen2"}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = sizes | {"image_size": 16, "patch_size": 8, "model_type": "siglip_vision_model", "vision_use_head": False}
    pinpoints = [[16, 32], [32, 16], [32, 32]]
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        tie_word_embeddings=False,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    with torch.no_grad():
        model.model.image_newline.normal_()
    images = LlavaOnevisionImageProcessorPil(size={"height": 16, "width": 16}, image_grid_pinpoints=pinpoints)
    settings = {"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 4}
    settings |= {"vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9"}
    template = INTERN_TEMPLATE.replace("<IMG_CONTEXT>", "<image>")
    return _save_with_videos(model, tokenizer, images, folder, template=template, settings=settings)


def save_smolvlm(folder: Path) -> Path:
    """SmolVLM: Idefics3's tiles with an image processor of its own."""
    tokenizer, vision = _idefics3_tokenizer(), _idefics3_vision()
    torch.manual_seed(0)
    config = SmolVLMConfig(
        vision_config=vision | {"initializer_range": 0.2},
        text_config=_language(len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    model = SmolVLMForConditionalGeneration(config)
    end = tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    images = SmolVLMImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    settings = {"processor_class": "SmolVLMProcessor", "image_seq_len": 1}
    return _save_with_videos(model, tokenizer, images, folder, template=IDEFICS_TEMPLATE, settings=settings)


def _save_with_videos(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    images: BaseImageProcessor,
    folder: Path,
    *,
    template: str,
    settings: dict[str, object],
) -> Path:
    """Save a checkpoint whose processor reads videos too, file by file, since making one needs torchvision."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(template)
    return folder


def _language(vocab_size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,  # large enough for the image and every word to move the log-probabilities
    )


def _save(model: torch.nn.Module, processor: LlavaProcessor | Idefics3Processor, folder: Path) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
ARCHITECTURES: dict[str, Callable[[Path], Path]] = {
    "llava": save_llava,
    "idefics3": save_idefics3,
    "smolvlm": save_smolvlm,
    "internvl": save_internvl,
    "llava_onevision": save_onevision,
    "gemma3": save_gemma3,
    **{family: partial(save_qwen, family=family) for family in QWEN},
}
"""How to save a checkpoint of each architecture."""
FAMILIES = ("llava", "qwen2_5_vl", "internvl", "smolvlm")
"""One of each published family."""
