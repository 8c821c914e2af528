"""Inputs and checks of a tiny run over a stock model, which `scripts/bench/stock_run.sh` trains, exports and scores.

`inputs FOLDER` writes drawn data with questions, a random checkpoint, a random SAM 2 and a run's YAML. `check FOLDER`
compares the losses of the uninterrupted and the interrupted run, and the logits of the exports.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from transformers import AutoModelForImageTextToText

from partonomy.models.contract import Role, Turn
from partonomy.models.processors import load_processor
from plum.checkpoints.store import load_pretrained
from plum.inference.predictor import Predictor
from plum.models.backbones.hf import FAMILIES
from plum.models.tiny import tiny_sam2_config
from scripts.bench.stock_checkpoints import ARCHITECTURES
from tests.plum.data.part_world import write_world
from tests.plum.stock_world import write_sam2

NUM_UPDATES = 4
MAX_LOSS_DIFFERENCE = 1e-4
"""Relative: ranks add their gradients in another order, in float32."""
MAX_LOGIT_DIFFERENCE = 1e-4


def write_inputs(folder: Path, family: str) -> None:
    """Write `world`, `stock`, `sam2` and `run.yaml` to a folder; `plum adopt` makes the `base` that the run needs."""
    write_world(folder / "world")
    ARCHITECTURES[family](folder / "stock")
    write_sam2(folder / "sam2")
    run = {
        "run_dir": str(folder / "run"),
        "init_from": str(folder / "base"),
        "save_model": "trained",
        "num_updates": NUM_UPDATES,
        "model": {
            "hf": {},
            "sam": asdict(tiny_sam2_config()),
            "tagger": {"num_heads": 4, "feedforward_dim": 64},
            "feedback": {"num_heads": 4},
            "lora": {"rank": 2},
        },
        "data": {"sources": [{"kind": "explanatory", "path": str(folder / "world")}]},
        "optimizer": {"learning_rate": 1e-3, "warmup_updates": 2},
        "engine": {
            "precision": "fp32",
            "micro_batch_size": 1,
            "accumulation": 2,
            "gradient_checkpointing": False,
            "num_workers": 0,
        },
        "log_every": 1,
        "save_every": 2,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")


def check(folder: Path) -> bool:
    """Print the largest differences of losses and logits; return whether they are within rounding."""
    whole, parts = (_losses(folder / name) for name in ("whole", "run"))
    losses = max(abs(one - other) / one for one, other in zip(whole, parts, strict=True))
    print(f"losses of {len(whole)} updates, uninterrupted and interrupted: largest relative difference {losses:.1e}")
    logits = _compare_logits(folder)
    print(f"logits of transformers' class and of PLUM, adapters and merged: largest difference {logits:.1e}")
    return losses <= MAX_LOSS_DIFFERENCE and logits <= MAX_LOGIT_DIFFERENCE


def _losses(run: Path) -> list[float]:
    return [json.loads(line)["loss_total"] for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


@torch.inference_mode()
def _compare_logits(folder: Path) -> float:
    photo = np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8)
    asked = (Turn(Role.USER, "What visible parts does it have?"),)
    stock = AutoModelForImageTextToText.from_pretrained(folder / "stock_form").eval()
    largest = 0.0
    for name in ("run/model", "adapters", "merged"):
        loaded = load_pretrained(folder / name)
        predictor = Predictor(loaded.model, loaded.tokenizer, loaded.config)
        row = predictor.answers.given(predictor.slots((photo,)), asked, "It has a wing.", "given")
        own = loaded.model.token_logits(predictor._hidden_states((photo,), [row]))
        inputs = load_processor(folder / "stock_form")(
            text=[row.rendered.text], images=[[Image.fromarray(photo)]], return_tensors="pt", add_special_tokens=False
        )
        is_text = torch.isfinite(own)
        largest = max(largest, float((own - stock(**inputs).logits)[is_text].abs().max()))
    return largest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; the status is 1 if a check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("step", choices=("inputs", "check"), help="write the inputs, or check what was made of them")
    parser.add_argument("folder", type=Path, help="folder of the inputs, the run and the exports")
    parser.add_argument("--family", default="qwen3_vl", choices=sorted(FAMILIES), help="default: qwen3_vl")
    parsed = parser.parse_args(arguments)
    if parsed.step == "inputs":
        write_inputs(parsed.folder, parsed.family)
        return 0
    return 0 if check(parsed.folder) else 1


if __name__ == "__main__":
    sys.exit(main())
