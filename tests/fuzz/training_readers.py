"""Readers of training data: label maps of ADE20K, COCO-Stuff and Mapillary Vistas, LLaVA-Instruct."""

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from plum.data.readers.label_maps import IGNORED, LABEL_LAYOUTS, LabelMaps
from plum.data.readers.llava_instruct import DIALOGUE_FILE, IMAGE_FOLDER, Dialogues
from tests.fuzz import mutations, worlds
from tests.fuzz.benchmark_readers import Damage
from tests.fuzz.outcomes import ACCEPTED, Refusal, attempt
from tests.fuzz.trial import Reader

CLASS_FILE = "mapillary/config_v2.0.json"


def make_training_readers(folder: Path) -> tuple[Reader, ...]:
    return (
        *(
            Reader(name, _label_files(name), partial(write_maps, name), partial(check_maps, name))
            for name in LABEL_LAYOUTS
        ),
        Reader("LLaVA-Instruct", mutations.damaged_json(dialogue_document()), write_dialogues, check_dialogues),
    )


def check_maps(name: str, case: tuple[str, bytes], folder: Path) -> str:
    """What is read indexes the names."""
    kind = Path(case[0]).name
    with Damage(folder, case):
        found = attempt(lambda: _read_maps(folder, name), folder / case[0])
    if isinstance(found, Refusal):
        return f"{kind}: refused: {found.reason_class}"
    maps, classes = found
    "".join(maps.names).encode("utf-8")
    assert set(np.unique(classes).tolist()) <= set(range(len(maps.names))) | {IGNORED}
    return f"{kind}: {ACCEPTED}"


def _read_maps(folder: Path, name: str) -> tuple[LabelMaps, np.ndarray]:
    maps = LabelMaps(folder, name)
    return maps, maps.read(0).classes


def check_dialogues(case: bytes, folder: Path) -> str:
    """Every dialogue that is read has questions with answers and no control token."""
    with Damage(folder, (DIALOGUE_FILE, case)):
        dialogues = attempt(lambda: Dialogues(folder), folder)
    if isinstance(dialogues, Refusal):
        return f"refused: {dialogues.reason_class}"
    for index in range(len(dialogues)):
        dialogue = dialogues.read(index)
        dialogue.dialogue_id.encode("utf-8")
        assert dialogue.image_path is None or dialogue.image_path.is_relative_to(folder)
        assert len(dialogue.exchanges) == dialogues.num_exchanges[index] > 0
        for exchange in dialogue.exchanges:
            assert exchange.question.strip()
            assert exchange.answer.strip()
            f"{exchange.question}{exchange.answer}".encode()
    return ACCEPTED


def map_content() -> bytes:
    """Classes that all three sets have, and pixels without one."""
    values = np.random.default_rng(0).integers(1, 3, (worlds.HEIGHT, worlds.WIDTH), dtype=np.uint8)
    values[:4] = IGNORED
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    return buffer.getvalue()


def class_document() -> dict[str, Any]:
    labels = [{"name": f"kind--{name}", "readable": name, "evaluate": True} for name in ("Bird", "Car", "Unlabeled")]
    return {"labels": labels, "version": 2.0}


def write_maps(name: str, folder: Path) -> None:
    layout = LABEL_LAYOUTS[name]
    for part in (layout.images, layout.labels):
        (folder / part).mkdir(parents=True)
    Image.new("RGB", (worlds.WIDTH, worlds.HEIGHT)).save(folder / layout.images / "one.jpg")
    (folder / layout.labels / "one.png").write_bytes(map_content())
    if name == "mapillary":
        (folder / CLASS_FILE).write_text(json.dumps(class_document()))


def dialogue_document() -> list[dict[str, Any]]:
    turns = [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A cup."},
        {"from": "human", "value": "Whose?"},
        {"from": "gpt", "value": "Mine."},
    ]
    return [{"id": "000000000009", "image": "a.jpg", "conversations": turns}, {"id": 7, "conversations": turns[:2]}]


def write_dialogues(folder: Path) -> None:
    (folder / IMAGE_FOLDER).mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(folder / IMAGE_FOLDER / "a.jpg")
    (folder / DIALOGUE_FILE).parent.mkdir()
    (folder / DIALOGUE_FILE).write_text(json.dumps(dialogue_document()))


@st.composite
def _label_files(draw: st.DrawFn, name: str) -> tuple[str, bytes]:
    if name == "mapillary" and draw(st.booleans()):
        return CLASS_FILE, draw(mutations.damaged_json(class_document()))
    path = f"{LABEL_LAYOUTS[name].labels}/one.png"
    content = map_content()
    if draw(st.integers(0, 4)) == 0:
        sides = st.sampled_from((0, 1, 31, 33, 20_000, 2**16, 2**31 - 1, 2**32 - 1))
        return path, worlds.claim_size(content, draw(sides), draw(sides))
    if draw(st.integers(0, 4)) == 0:
        return path, draw(st.sampled_from(sorted(worlds.image_contents().values())))
    return path, draw(mutations.damaged_bytes(content))
