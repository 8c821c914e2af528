"""Makes implicit questions about objects and parts from annotations and a table of functions, without a model.

`functions.yaml` lists the functions of parts and objects.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from partonomy.datasets.sources.mmr import TARGET_MARK, Granularity, Kind, MmrQuestion
from partonomy.files import hash_json
from partonomy.names import OBJECT_PART_SEPARATOR
from partonomy.questions.mmr.pairs import MadePairs, Rejection, find_faults, reject
from partonomy.questions.mmr.scene import Scene, SceneTarget, read_scene, says_name, word_keys
from partonomy.structures import AnnotatedImage

DEFAULT_FUNCTIONS = Path(__file__).with_name("functions.yaml")
KINDS = ("parts", "objects")
MAX_TARGETS = 16
"""The largest number of targets of an answer in the published MMR (paper, section 3.3)."""
MAX_DRAWS = 12
"""Number of draws for a question before the image counts as exhausted."""
COUNTS = {
    Kind.OBJECT: ((1, 0), (1, 0), (2, 0)),
    Kind.PART: ((0, 1), (0, 1), (0, 2), (0, 3)),
    Kind.MIXED: ((1, 1), (1, 1), (1, 2)),
}
"""Numbers of object functions and part functions that a question of a kind asks for; drawn uniformly."""
OBJECT_OPENINGS = (
    "What in this picture would help to {purpose}",
    "Which whole thing or things here would one choose to {purpose}",
    "What is to be seen here that would be of use to {purpose}",
)
PART_OPENINGS = (
    "Which part or parts in this picture does it take to {purpose}",
    "What among all the parts to be seen here serves to {purpose}",
    "By means of which part or parts here is it possible to {purpose}",
)
FURTHER = {
    Granularity.OBJECT: "what would help to {purpose}",
    Granularity.PART: "which part or parts does it take to {purpose}",
}
ANSWERS = {Granularity.OBJECT: "one would choose {targets}", Granularity.PART: "it takes {targets}"}


@dataclass(frozen=True)
class FunctionTable:
    """Purposes ("sit down") of parts and objects.

    Attributes:
        parts: purposes by part name, and by "object:part" for the part of a single object.
        objects: purposes by object name.
    """

    parts: Mapping[str, tuple[str, ...]]
    objects: Mapping[str, tuple[str, ...]]

    def find(self, object_name: str, part_name: str | None) -> tuple[str, ...]:
        """Return the purposes of a part, or of an object if `part_name` is None; both names are cleaned."""
        if part_name is None:
            return self.objects.get(object_name, ())
        own = f"{object_name}{OBJECT_PART_SEPARATOR}{part_name}"
        return self.parts.get(own, self.parts.get(part_name, ()))


def load_functions(path: Path = DEFAULT_FUNCTIONS) -> FunctionTable:
    """Read a table of functions.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another form, or a purpose contains the name of one of its entries; the message names file
            and purpose.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the file of functions does not exist")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file ({error})") from error
    if not isinstance(content, dict) or set(content) != set(KINDS):
        raise ValueError(f"{path}: the file of functions must have exactly the keys {', '.join(KINDS)}")
    return FunctionTable(*(_invert(content[kind], f"{path}, {kind}") for kind in KINDS))


def _invert(purposes: object, where: str) -> dict[str, tuple[str, ...]]:
    """Turn purpose -> "wheel, front wheel" into name -> purposes."""
    if not isinstance(purposes, dict):
        raise ValueError(f"{where}: expected lines 'purpose: name, name', got {type(purposes).__name__}")
    found: defaultdict[str, list[str]] = defaultdict(list)
    for purpose, listed in purposes.items():
        if not isinstance(purpose, str) or not isinstance(listed, str):
            raise ValueError(f"{where}, {purpose!r}: expected a purpose and names with commas between, got {listed!r}")
        keys = word_keys(purpose)
        for entry in (name.strip() for name in listed.split(",")):
            for name in entry.split(OBJECT_PART_SEPARATOR):
                if not name or says_name(keys, name):
                    raise ValueError(
                        f"{where}, {purpose!r}: the entry {entry!r} is empty or named by the purpose itself"
                    )
            if purpose not in found[entry]:
                found[entry].append(purpose)
    return {name: tuple(listed) for name, listed in found.items()}


@dataclass(frozen=True)
class Group:
    """A purpose and all targets in the image that serve it."""

    purpose: str
    granularity: Granularity
    targets: tuple[SceneTarget, ...]


@dataclass(frozen=True)
class Askable:
    """The groups of an image by granularity, and the categories that are not in the table."""

    objects: tuple[Group, ...]
    parts: tuple[Group, ...]
    not_askable: tuple[str, ...]


class TemplateMaker:
    """Makes pairs from templates; every image has its own random stream.

    Args:
        table: the table of functions.
        table_sha256: sha256 of the table's file.
        seed: seed of the draws.
        questions_per_image: number of pairs per image; fewer if the image offers no more.
    """

    def __init__(self, table: FunctionTable, table_sha256: str, seed: int, questions_per_image: int) -> None:
        if questions_per_image < 1:
            raise ValueError(f"questions_per_image must be at least 1, got {questions_per_image}")
        self._table = table
        self._seed = seed
        self._questions_per_image = questions_per_image
        self.settings: Mapping[str, object] = {
            "maker": "templates",
            "wording_sha256": hash_json([OBJECT_OPENINGS, PART_OPENINGS, FURTHER, ANSWERS, list(COUNTS.items())]),
            "functions_sha256": table_sha256,
            "seed": seed,
            "questions_per_image": questions_per_image,
        }

    def make(self, image: AnnotatedImage, kind: Kind | None) -> MadePairs:
        """Make the pairs of an image (see `PairMaker`); if `kind` is None, the kinds alternate."""
        kinds = list(Kind)
        number = len(kinds) if kind is None else kinds.index(kind)
        generator = np.random.default_rng((self._seed, image.image_id, number))
        scene = read_scene(image)
        askable = group_targets(scene, self._table)
        turns = [kinds[place] for place in generator.permutation(len(kinds))] if kind is None else [kind]
        questions: list[MmrQuestion] = []
        rejections: list[Rejection] = []
        asked: set[frozenset[str]] = set()
        for turn in range(self._questions_per_image):
            for _ in range(MAX_DRAWS):
                groups = draw_groups(askable, turns[turn % len(turns)], generator)
                purposes = frozenset(group.purpose for group in groups)
                if not groups or purposes in asked:
                    continue
                asked.add(purposes)
                question = word_question(f"{image.image_id}:{len(questions)}", groups, generator)
                faults = find_faults(question, scene)
                rejections += [reject(question.question, question.text_answer, fault) for fault in faults]
                if not faults:
                    questions.append(question)
                    break
        return MadePairs(tuple(questions), tuple(rejections), askable.not_askable)


def group_targets(scene: Scene, table: FunctionTable) -> Askable:
    """Group an image's targets by purpose.

    Objects with an instance without a mask are left out, because an answer would lack that instance. So are purposes
    that more than `MAX_TARGETS` targets serve.
    """
    groups: dict[Granularity, defaultdict[str, list[SceneTarget]]] = {one: defaultdict(list) for one in Granularity}
    not_askable = []
    incomplete = {purpose for name in scene.unmasked for purpose in table.find(name, None)}
    for target in scene.targets:
        purposes = table.find(target.object_name, target.part_name)
        for purpose in purposes:
            groups[target.target.granularity][purpose].append(target)
        if not purposes:
            not_askable.append(target.target.category_name)
    objects = {purpose: found for purpose, found in groups[Granularity.OBJECT].items() if purpose not in incomplete}
    return Askable(
        _sorted_groups(objects, Granularity.OBJECT),
        _sorted_groups(groups[Granularity.PART], Granularity.PART),
        tuple(not_askable),
    )


def draw_groups(askable: Askable, kind: Kind, generator: np.random.Generator) -> tuple[Group, ...]:
    """Draw the purposes of one question without a target in common; empty if the draw fails."""
    num_objects, num_parts = COUNTS[kind][int(generator.integers(len(COUNTS[kind])))]
    chosen = [*_draw_disjoint(askable.objects, num_objects, generator)]
    chosen += _draw_disjoint(askable.parts, num_parts, generator)
    num_targets = sum(len(group.targets) for group in chosen)
    return tuple(chosen) if len(chosen) == num_objects + num_parts and num_targets <= MAX_TARGETS else ()


def word_question(question_id: str, groups: Sequence[Group], generator: np.random.Generator) -> MmrQuestion:
    """Ask for one or more groups in one sentence, and answer in the same order."""
    openings = OBJECT_OPENINGS if groups[0].granularity is Granularity.OBJECT else PART_OPENINGS
    clauses = [openings[int(generator.integers(len(openings)))].format(purpose=groups[0].purpose)]
    clauses += [FURTHER[group.granularity].format(purpose=group.purpose) for group in groups[1:]]
    answer = "; ".join(ANSWERS[group.granularity].format(targets=_list_targets(group.targets)) for group in groups)
    targets = tuple(one.target for group in groups for one in group.targets)
    text_answer = f"{answer[0].upper()}{answer[1:]}."
    return MmrQuestion(question_id, f"{', and '.join(clauses)}?", targets, text_answer)


def _sorted_groups(found: Mapping[str, Iterable[SceneTarget]], granularity: Granularity) -> tuple[Group, ...]:
    groups = []
    for purpose, targets in sorted(found.items()):
        ordered = sorted(targets, key=lambda one: (one.target.category_name, one.box))
        if len(ordered) <= MAX_TARGETS:
            groups.append(Group(purpose, granularity, tuple(ordered)))
    return tuple(groups)


def _draw_disjoint(groups: Sequence[Group], count: int, generator: np.random.Generator) -> list[Group]:
    """Draw up to `count` groups in random order that share no target."""
    chosen: list[Group] = []
    taken: set[str] = set()
    for place in generator.permutation(len(groups)) if count else ():
        group = groups[int(place)]
        names = {one.numbered for one in group.targets}
        if len(chosen) < count and not names & taken:
            chosen.append(group)
            taken |= names
    return chosen


def _list_targets(targets: Sequence[SceneTarget]) -> str:
    """List targets with their marks: 'the car's front wheel {seg} and the car's rear wheel {seg}'."""
    named = [f"the {one.phrase} {TARGET_MARK}" for one in targets]
    return " and ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else named[0]
