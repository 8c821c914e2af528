"""Measure the memory of `plum convert` on a drawn folder of LISA's size: `python -m scripts.bench.convert_memory`.

The source is a LISA in its authors' layout whose shards are sparse files: they read as zeros and take no space. Norms
are ones, since zeros would be taken for a delta. CLIP's folder is drawn too. The converted folder is written whole, so
`--folder` needs its size free: 16 GB for 7b, 29 GB for 13b. Everything is removed at the end.

Prints one line of JSON: sizes, the largest shards of source and destination, the peak of anonymous memory (what the
conversion allocates), the peak resident size (with mapped pages of the source, which the system drops when it needs
memory), and CPU seconds. The status is 1 if the anonymous peak is more than `--bound` times the largest written shard.
"""

import argparse
import contextlib
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from plum.checkpoints.model_weights import empty_model
from plum.checkpoints.published.llava_keys import LAYOUTS, OWN_VISION
from plum.checkpoints.published.system_keys import LISA
from plum.config import (
    FeedbackConfig,
    LanguageConfig,
    LlavaConfig,
    ModelConfig,
    SamConfig,
    SegTokenConfig,
    SpecialTokensConfig,
    VisionConfig,
)
from scripts.sentencepiece_model import train_sentencepiece, write_tokenizer_files

CLIP_L_14 = VisionConfig(224, 14, 1024, 4096, 24, 16, fit="crop")
SIZES = {
    "7b": LanguageConfig(32003, 4096, 11008, 32, 32, 32),
    "13b": LanguageConfig(32003, 5120, 13824, 40, 40, 40),
    "small": LanguageConfig(32003, 512, 1376, 4, 8, 8),
}
"""LISA's language models; `small` tries the script."""
TOKENS = ("[SEG]", "<im_start>", "<im_end>")
LINEAR = next(layout for layout in LAYOUTS if layout.projector == "linear" and not layout.has_vision)
SECOND_LAYER = "llava.network.model.multi_modal_projector.linear_2."
NUM_PIECES = 300
"""Vocabulary of the drawn tokenizer; the model has LISA's number of rows all the same."""
SAMPLES_PER_SECOND = 50
_BYTES = {"BF16": 2, "F32": 4}


def lisa_config(language: LanguageConfig) -> ModelConfig:
    """Return the architecture of a LISA around a language model."""
    llava = LlavaConfig(
        CLIP_L_14,
        language,
        projector="linear",
        conversation="llava_v1_im_start_end",
        special_tokens=SpecialTokensConfig(image=0, pad=0, eos=2),
    )
    return ModelConfig(
        llava=llava,
        sam=SamConfig(),
        tagger=None,
        feedback=FeedbackConfig(is_enabled=False),
        lora=None,
        system="lisa",
        seg_token=SegTokenConfig("single"),
    )


def write_sparse(path: Path, shapes: Mapping[str, Sequence[int]], dtype: str) -> None:
    """Write a safetensors file of zeros that takes no space, with ones in the norms of the language model."""
    header: dict[str, object] = {}
    starts: dict[str, int] = {}
    at = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * _BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        starts[name] = at
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        first = file.tell()
        file.truncate(first + at)
        for name in shapes:
            if name.endswith("norm.weight"):
                ones = torch.ones(*shapes[name], dtype=torch.bfloat16 if dtype == "BF16" else torch.float32)
                file.seek(first + starts[name])
                file.write(ones.view(torch.uint8).numpy().tobytes())


def write_source(folder: Path, config: ModelConfig, num_shards: int) -> None:
    """Write the checkpoint's folder: sparse shards in order of layers, index, configuration, tokenizer."""
    folder.mkdir()
    layout = replace(LISA, llava=LINEAR)
    shapes = {
        layout.published_name(own): tuple(tensor.shape)
        for own, tensor in empty_model(config).state_dict().items()
        if not own.startswith((OWN_VISION, SECOND_LAYER))
    }
    total = sum(math.prod(shape) for shape in shapes.values())
    shards: list[dict[str, Sequence[int]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        if filled > total / num_shards and len(shards) < num_shards:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += math.prod(shape)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_sparse(folder / file, shard, "BF16")
        weight_map |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    language = config.language
    content = {
        "architectures": ["LISAForCausalLM"],
        "model_type": "llava",
        "vocab_size": language.vocab_size,
        "hidden_size": language.hidden_size,
        "intermediate_size": language.intermediate_size,
        "num_hidden_layers": language.num_layers,
        "num_attention_heads": language.num_heads,
        "num_key_value_heads": language.num_key_value_heads,
        "hidden_act": "silu",
        "max_position_embeddings": language.max_positions,
        "rms_norm_eps": language.rms_norm_eps,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "mm_hidden_size": CLIP_L_14.hidden_size,
        "mm_use_im_start_end": True,
        "mm_vision_select_layer": CLIP_L_14.select_layer,
        "mm_vision_tower": "openai/clip-vit-large-patch14",
        "out_dim": config.sam.prompt_dim,
        "train_mask_decoder": True,
    }
    (folder / "config.json").write_text(json.dumps(content))
    model = train_sentencepiece(["It is the wheel of a plane.", "USER: Where is it? ASSISTANT: There."] * 3, NUM_PIECES)
    write_tokenizer_files(folder, model, {})
    (folder / "added_tokens.json").write_text(json.dumps({token: NUM_PIECES + i for i, token in enumerate(TOKENS)}))


def write_clip(folder: Path, config: ModelConfig) -> None:
    """Write CLIP's folder as a vision tower alone."""
    folder.mkdir()
    shapes = {
        own.removeprefix(OWN_VISION): tuple(tensor.shape)
        for own, tensor in empty_model(config).state_dict().items()
        if own.startswith(OWN_VISION)
    }
    prefix = "" if any(name.startswith("vision_model.") for name in shapes) else "vision_model."
    write_sparse(folder / "model.safetensors", {prefix + name: shape for name, shape in shapes.items()}, "F32")
    vision = config.of_llava.vision
    content = {
        "model_type": "clip_vision_model",
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_layers,
        "num_attention_heads": vision.num_heads,
    }
    (folder / "config.json").write_text(json.dumps(content))


def watch(command: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Run a command and yield its anonymous and its whole resident size in bytes, many times a second.

    Raises:
        RuntimeError: the command fails.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        with contextlib.suppress(OSError, KeyError):  # it ends in between
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            yield 1024 * int(fields["RssAnon"].split()[0]), 1024 * int(fields["VmHWM"].split()[0])
        time.sleep(1 / SAMPLES_PER_SECOND)
    if process.returncode:
        assert process.stderr is not None
        raise RuntimeError(f"the conversion failed:\n{process.stderr.read()[-2000:]}")


def main(size: str, num_shards: int, folder: Path, bound: float) -> int:
    """Draw, convert, measure, remove."""
    config = lisa_config(SIZES[size])
    with tempfile.TemporaryDirectory(dir=folder) as name:
        source, clip, destination = (Path(name) / part for part in ("source", "clip", "model"))
        write_source(source, config, num_shards)
        write_clip(clip, config)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "plum", "convert", str(source), str(destination), "--clip", str(clip)]
        anonymous, resident = (max(column) for column in zip(*watch(command), strict=True))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        read, written = ([path.stat().st_size for path in part.glob("*.safetensors")] for part in (source, destination))
        blocks = sum(path.stat().st_blocks for path in source.glob("*.safetensors"))
        shutil.rmtree(destination)
    result = {
        "size": size,
        "source_gb": sum(read) / 1e9,
        "source_gb_on_disk": 512 * blocks / 1e9,
        "largest_source_shard_gb": max(read) / 1e9,
        "written_gb": sum(written) / 1e9,
        "largest_written_shard_gb": max(written) / 1e9,
        "peak_anonymous_gb": anonymous / 1e9,
        "peak_resident_gb": resident / 1e9,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }
    print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in result.items()}))
    return int(anonymous > bound * max(written))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b")
    parser.add_argument("--num_shards", type=int, default=3, help="shards of the source")
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("TMPDIR", "/tmp")), help="where to write")
    parser.add_argument("--bound", type=float, default=1.5, help="largest allowed memory, in written shards")
    given = parser.parse_args()
    raise SystemExit(main(given.size, given.num_shards, given.folder, given.bound))
