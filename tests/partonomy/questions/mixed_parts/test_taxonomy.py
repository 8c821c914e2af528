"""Candidate pairs of classes, the rules by which they are compared, and the reviewed list."""

import json
import os
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from partonomy.datasets.sources.paco import read_role
from partonomy.datasets.sources.part_imagenet import EVERYDAY_LABELS, read_everyday_labels
from partonomy.names import clean_name
from partonomy.questions.mixed_parts.taxonomy import (
    GROUPS_FILE,
    ClassPair,
    ComparableRules,
    Decision,
    candidate_pairs,
    judge_pairs,
    read_groups,
    read_review,
    write_judged,
)

SCHEMA = Path(os.environ.get("PARTONOMY_REAL_DATA", "no folder given")) / "schema"
needs_schema = pytest.mark.skipif(not SCHEMA.is_dir(), reason="PARTONOMY_REAL_DATA names no folder with `schema`")

SUPERCATEGORY_PARTS = {
    "aeroplane": "body engine head tail wing",
    "biped": "body foot hand head tail",
    "bird": "body foot head tail wing",
    "boat": "body sail",
    "fish": "body fin head tail",
    "quadruped": "body foot head tail",
    "reptile": "body foot head tail",
    "snake": "body head",
}
"""Parts of PartImageNet's super-categories, from Table 6 of CALICO's supplement."""
NUM_OF_SUPERCATEGORY = {"quadruped": 23, "reptile": 5, "fish": 3, "biped": 2, "bird": 1, "boat": 1, "snake": 1}
LIGHTS = {"lamp": frozenset({"shade", "base"}), "sconce": frozenset({"shade", "arm"}), "bus": frozenset({"door"})}


def part_imagenet_taxonomy() -> dict[str, frozenset[str]]:
    rows = [line.split("\t") for line in EVERYDAY_LABELS.read_text(encoding="utf-8").splitlines()[1:]]
    return {row[2]: frozenset(SUPERCATEGORY_PARTS[row[3]].split()) for row in rows}


def ade_taxonomy() -> dict[str, frozenset[str]]:
    content = json.loads((SCHEMA / "ade20kpart234_mapping.json").read_text(encoding="utf-8"))
    return {name.split(", ")[0]: frozenset(entry["parts"]) for name, entry in content.items()}


def paco_taxonomy() -> dict[str, frozenset[str]]:
    parts: dict[str, set[str]] = defaultdict(set)
    for category in json.loads((SCHEMA / "paco_lvis_v1_train_cat_info.json").read_text(encoding="utf-8")):
        role = read_role(category["name"], category["supercategory"])
        if role.raw_part is not None:
            parts[role.raw_object].add(clean_name(role.raw_part))
    return {clean_name(name): frozenset(found) for name, found in parts.items()}


def test_table_6_of_part_imagenet() -> None:
    taxonomy = part_imagenet_taxonomy()
    assert len(taxonomy) == 37
    assert sum(map(len, taxonomy.values())) == 148
    assert sum(1 for _ in candidate_pairs("part_imagenet", taxonomy)) == 666


@needs_schema
def test_table_6_of_ade20k_part_234_and_paco() -> None:
    ade, paco = ade_taxonomy(), paco_taxonomy()
    assert (len(ade), len(paco)) == (44, 73)
    assert sum(map(len, paco.values())) == 456
    candidates = [*candidate_pairs("ade20k_part_234", ade), *candidate_pairs("paco_lvis", paco)]
    assert Counter(pair.source for pair in candidates) == {"ade20k_part_234": 319, "paco_lvis": 900}
    # No pair crosses the sources, and no class is a candidate with itself, though it may be compared with itself.
    assert all(pair.first < pair.second for pair in candidates)
    own = sum(bool(parts) for parts in (*ade.values(), *paco.values(), *part_imagenet_taxonomy().values()))
    assert 319 + 900 + 666 + own == 2039


@needs_schema
def test_every_class_of_the_packaged_groups_exists_and_finds_a_partner() -> None:
    groups = read_groups(GROUPS_FILE)
    taxonomies = {
        "ade20k_part_234": ade_taxonomy(),
        "paco_lvis": paco_taxonomy(),
        "part_imagenet": part_imagenet_taxonomy(),
    }
    assert groups.keys() == taxonomies.keys()
    for source, taxonomy in taxonomies.items():
        for name, labels in groups[source].items():
            assert set(labels) <= taxonomy.keys(), (source, name)
            pairs = list(candidate_pairs(source, {label: taxonomy[label] for label in labels}))
            assert {label for pair in pairs for label in (pair.first, pair.second)} == set(labels), (source, name)


@needs_schema
def test_pairs_that_the_paper_names() -> None:
    rules = ComparableRules(read_groups(GROUPS_FILE), {})
    sources = {"ade20k_part_234": ade_taxonomy(), "part_imagenet": part_imagenet_taxonomy()}
    accepted = {
        one.pair
        for source, taxonomy in sources.items()
        for one in judge_pairs(source, taxonomy, dict.fromkeys(taxonomy, ""), rules)
        if one.decision is Decision.ACCEPT
    }
    assert ClassPair("ade20k_part_234", "chair", "ottoman") in accepted
    assert ClassPair("ade20k_part_234", "armchair", "swivel chair") in accepted
    assert ClassPair("part_imagenet", "airplane", "bird") in accepted
    assert ClassPair("ade20k_part_234", "bus", "microwave") not in accepted
    assert ClassPair("part_imagenet", "boat", "snake") not in accepted


def test_everyday_labels() -> None:
    rows = [line.split("\t") for line in EVERYDAY_LABELS.read_text(encoding="utf-8").splitlines()[1:]]
    of_label: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        of_label[row[2]].add(row[3])
    assert all(len(found) == 1 for found in of_label.values())
    assert Counter(category for (category,) in of_label.values()) == {**NUM_OF_SUPERCATEGORY, "aeroplane": 1}
    labels = read_everyday_labels()
    assert len(labels) == len(rows)
    # The paper's own example, and classes at every distance from their noun.
    assert labels["n02071294"] == "whale"
    assert (labels["n02100735"], labels["n02510455"], labels["n02690373"]) == ("dog", "panda", "airplane")
    assert "n02814533" not in labels  # a beach wagon


def test_a_source_without_groups_is_judged_by_category_and_overlap() -> None:
    categories = {"lamp": "light", "sconce": "light", "bus": "vehicle"}
    taxonomy = {**LIGHTS, "van": frozenset({"door", "wheel"}), "car": frozenset({"door", "wheel", "hood", "logo"})}
    categories |= {"van": "van", "car": "car"}
    judged = {one.pair: one for one in judge_pairs("own", taxonomy, categories, ComparableRules({}, {}))}
    assert judged[ClassPair("own", "lamp", "sconce")].reason == "category light"
    assert judged[ClassPair("own", "bus", "van")] == judged[ClassPair.of("own", "van", "bus")]
    assert judged[ClassPair("own", "bus", "van")].decision is Decision.ACCEPT  # 1 of 2 names
    assert judged[ClassPair("own", "bus", "car")].decision is Decision.REJECT  # 1 of 4
    assert judged[ClassPair("own", "bus", "bus")].decision is Decision.ACCEPT
    assert ClassPair("own", "bus", "lamp") not in judged
    strict = judge_pairs("own", taxonomy, categories, ComparableRules({}, {}, min_overlap=0.6))
    assert {one.pair: one for one in strict}[ClassPair("own", "bus", "van")].decision is Decision.REJECT


def test_groups_replace_category_and_overlap() -> None:
    groups = {"own": {"bright things": ["lamp", "bus"]}}
    judged = judge_pairs("own", LIGHTS, dict.fromkeys(LIGHTS, "same"), ComparableRules(groups, {}))
    assert {one.pair.second: one.decision for one in judged if one.pair.first == "lamp"} == {
        "lamp": Decision.ACCEPT,
        "sconce": Decision.REJECT,
    }


def test_a_reviewed_list_precedes_everything(tmp_path: Path) -> None:
    rules = ComparableRules({"own": {"lights": ["lamp", "sconce"]}}, {})
    path = tmp_path / "comparable.tsv"
    write_judged(judge_pairs("own", LIGHTS, {}, rules), path)
    text = path.read_text(encoding="utf-8")
    assert "own\tlamp\tsconce\taccept\tgroup lights\tshade\n" in text
    path.write_text(text.replace("accept\tgroup", "reject\tgroup").replace("bus\tbus\taccept", "bus\tbus\treject"))
    judged = judge_pairs("own", LIGHTS, {}, ComparableRules(rules.groups, read_review(path)))
    decisions = {(one.pair.first, one.pair.second): (one.decision.value, one.reason) for one in judged}
    assert decisions == {
        ("lamp", "sconce"): ("reject", "reviewed"),
        ("bus", "bus"): ("reject", "reviewed"),
        ("lamp", "lamp"): ("accept", "reviewed"),
        ("sconce", "sconce"): ("accept", "reviewed"),
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("source\tfirst\tsecond\n", "lacks the column 'decision'"),
        ("source,first,second,decision\n", "lacks the column 'source'"),
        ("source\tfirst\tsecond\tdecision\na\tb\tc\tmaybe\n", "line 2: the decision must be accept or reject"),
        ("source\tfirst\tsecond\tdecision\na\tb\t\taccept\n", "line 2: source, first, second and decision"),
        ("source\tfirst\tsecond\tdecision\na\tb\n", "line 2: source, first, second and decision"),
        (
            "source\tfirst\tsecond\tdecision\na\tb\tc\taccept\na\tc\tb\treject\n",
            "line 3: an earlier line decides otherwise about b and c",
        ),
    ],
)
def test_a_broken_review_is_refused_by_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "review.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        read_review(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[a]", "must map sources to groups"),
        ("a: [b]", "must map the names of groups"),
        ("a: {seats: chair}", "the group 'seats' of a must be a list"),
        ("a: {seats: [chair, chair]}", "the group 'seats' of a must be a list of different classes"),
        ("a: {seats: [1]}", "the group 'seats' of a must be a list"),
    ],
)
def test_broken_groups_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "groups.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        read_groups(path)


@pytest.mark.parametrize("value", [0.0, 1.1])
def test_an_overlap_outside_its_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="--min_overlap"):
        ComparableRules({}, {}, value)
