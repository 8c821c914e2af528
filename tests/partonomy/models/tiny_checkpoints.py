"""Checkpoint folders of transformers with random weights, one per architecture, made without any download."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor

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

TEXTS = (
    "USER: What visible parts does the biplane have? ASSISTANT: It has a front wheel, a wheel and a propeller.",
    "User: What is the object in the image? Assistant: It is a seaplane. It has wing, tail fin, door.",
)


def tiny_tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer; `<s>`, `</s>`, `<pad>` and the given tokens are special."""
    tokens = ["<pad>", "<s>", "</s>", *special]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        TEXTS,
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
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = tiny_tokenizer("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *places)
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}),
        tokenizer,
        image_seq_len=1,
        chat_template=IDEFICS_TEMPLATE,
    )
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    config = Idefics3Config(
        vision_config=vision,
        text_config=_language(len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    model = Idefics3ForConditionalGeneration(config)
    end = tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    return _save(model, processor, folder)


def make_qwen2_vl(monkeypatch: pytest.MonkeyPatch) -> tuple[Qwen2VLForConditionalGeneration, Qwen2VLProcessor]:
    """Qwen2-VL: positions in three dimensions, as many image tokens as the image's size asks for.

    Its processor's video half needs torchvision, which the project does without: a stub stands in its place, so that
    it cannot be saved and loaded.
    """
    marks = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    tokenizer = tiny_tokenizer("<|im_start|>", "<|im_end|>", *marks)
    tokenizer.eos_token = "<|im_end|>"
    image_id, video_id, start_id, end_id = tokenizer.convert_tokens_to_ids(list(marks))
    text = _language(len(tokenizer)).to_dict() | {
        "model_type": "qwen2_vl_text",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]},
    }
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=image_id,
            video_token_id=video_id,
            vision_start_token_id=start_id,
            vision_end_token_id=end_id,
        )
    )
    monkeypatch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda self, name, argument: type(argument))
    images = Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 64, "longest_edge": 1024})
    videos = SimpleNamespace(merge_size=2, model_input_names=[])
    return model, Qwen2VLProcessor(images, tokenizer, videos, chat_template=QWEN_TEMPLATE)


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
