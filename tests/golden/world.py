"""The data of the golden values: the miniature of every download, and question sets made by the commands."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from partonomy.__main__ import main as partonomy
from plum.data.miniature.writer import write_miniature
from tests.golden.tiny_plum import save_tiny_plum

NUM_IMAGES = 12
IMAGE_SIZE = 64
NUM_DRAWN = 10
"""Images of the synthetic question sets."""
DRAWN_SIZE = 96
MUTATIONS = ("paper", "authors", "balanced")
QUICK = ("--embedding_model", "char-ngram-tfidf")
"""Wrong objects by the letters of their names: no model has to be loaded."""
FORMER_WORDING = ("--templates", "plain")
"""The stored run folders belong to questions in this wording; the other question sets have the default one."""
TEXTVQA_ANSWERS = [*4 * ["C"], *3 * ["AB"], *2 * ["wing"], "E"]
"""The ten answers of every TextVQA question: what the tiny PLUM says now and then, so that scores are not all 0."""
GQA_ANSWERS = ("A", "E", "E red", "C")
"""Those of GQA's open questions, in turn."""
HASHED = ("questions.jsonl", "annotations.json")


@dataclass(frozen=True)
class World:
    """Folders of the data; read-only for the tests.

    Attributes:
        folder: Holds the rest: checkpoint/, miniature/, questions/NAME, mmr_like/.
    """

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The tiny PLUM."""
        return self.folder / "checkpoint"

    @property
    def miniature(self) -> Path:
        """The root of the benchmarks."""
        return self.folder / "miniature"

    def questions(self, name: str) -> Path:
        """A question set of Partonomy."""
        return self.folder / "questions" / name


def write_world(folder: Path, num_images: int = NUM_IMAGES, num_drawn: int = NUM_DRAWN, noise: float = 0.0) -> World:
    """Write all of it.

    Args:
        folder: New folder.
        num_images: Pictures of each benchmark.
        num_drawn: Pictures of the synthetic question sets.
        noise: See `save_tiny_plum`.
    """
    world = World(folder)
    save_tiny_plum(world.checkpoint, noise)
    write_miniature(world.miniature, num_images, IMAGE_SIZE)
    _make_answerable(world.miniature)
    for mutation in MUTATIONS:
        drawn = world.questions(f"synthetic_{mutation}")
        size = ("--images", str(num_drawn), "--image_size", str(DRAWN_SIZE))
        _build(drawn, mutation, "--source", "synthetic", "--split", "val", *size, *FORMER_WORDING)
        places = ("--annotations", str(drawn / "annotations.json"), "--images", str(drawn / "images"))
        _build(world.questions(f"coco_{mutation}"), mutation, "--source", "coco", *places)
    downloads = world.miniature / "vlpart"
    paco = ("--annotations", str(downloads / "paco/annotations/paco_lvis_v1_train.json"))
    images = ("--images", str(world.miniature / "coco"))
    _build(world.questions("paco"), "paper", "--source", "paco", *paco, *images)
    imagenet = (
        "--annotations",
        str(downloads / "partimagenet/train.json"),
        "--images",
        str(downloads / "partimagenet"),
    )
    _build(world.questions("part_imagenet"), "paper", "--source", "part_imagenet", *imagenet)
    _run(["build-mmr", str(world.questions("paco")), "--output", str(folder / "mmr_like"), "--split", "val"])
    _write_damaged(world)
    return world


def hash_world(world: World) -> dict[str, str]:
    """sha256 of every file of questions that a command made."""
    files = {
        f"{folder.name}/{name}": folder / name for folder in sorted(world.folder.glob("questions/*")) for name in HASHED
    }
    files |= {f"mmr_like/{path.name}": path for path in sorted(world.folder.glob("mmr_like/MMR/MMR_*.json"))}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if not path.name.endswith(".build.json")
    }


def _make_answerable(miniature: Path) -> None:
    """Give questions the answers above."""
    path = miniature / "textvqa" / "TextVQA_0.5.1_val.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for entry in content["data"]:
        entry["answers"] = TEXTVQA_ANSWERS
    path.write_text(json.dumps(content), encoding="utf-8")
    for split in ("testdev", "val"):
        path = miniature / "gqa" / f"{split}_balanced_questions.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        for number, question in enumerate(content.values()):
            if question["answer"] not in ("yes", "no"):
                question["answer"] = GQA_ANSWERS[number % len(GQA_ANSWERS)]
        path.write_text(json.dumps(content), encoding="utf-8")


def _write_damaged(world: World) -> None:
    """A question set without one of its images and with a line that cannot be read: both are counted as failed."""
    damaged = world.questions("damaged")
    shutil.copytree(world.questions("synthetic_paper"), damaged)
    sorted((damaged / "images").iterdir())[1].unlink()
    path = damaged / "questions.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[3] = lines[3].replace('"is_correct":true', '"is_correct":false')
    path.write_text("".join(lines), encoding="utf-8")
    build = damaged / "build.json"  # as by an earlier version, without the hashes that would refuse the folder
    content = json.loads(build.read_text(encoding="utf-8"))
    del content["files"]
    build.write_text(json.dumps(content), encoding="utf-8")


def _build(output: Path, mutation: str, *flags: str) -> None:
    _run(["build", *flags, "--mutation", mutation, *QUICK, "--output", str(output)])


def _run(command: Sequence[str]) -> None:
    if partonomy(command) != 0:
        raise RuntimeError(f"python -m partonomy {' '.join(command)} failed")
