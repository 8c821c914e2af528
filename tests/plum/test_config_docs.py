"""Every key of a run's configuration has a sentence, which --help and the site's reference show."""

import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest
from docstring_parser import parse_from_object

from plum.train_config import TrainConfig


def find_blocks(declared: object) -> Iterator[type]:
    """The dataclasses in a type and in the types of their fields."""
    if isinstance(declared, type) and is_dataclass(declared):
        yield declared
        for hint in typing.get_type_hints(declared).values():
            yield from find_blocks(hint)
    for inner in typing.get_args(declared):
        yield from find_blocks(inner)


BLOCKS = list(dict.fromkeys(find_blocks(TrainConfig)))


def test_all_blocks_are_found() -> None:
    names = {block.__name__ for block in BLOCKS}
    assert {"TrainConfig", "SourceConfig", "AdaptationConfig", "PretextConfig", "LoraConfig"} <= names


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_every_key_has_a_sentence(block: type) -> None:
    parsed = parse_from_object(block)
    assert parsed.short_description
    described = {param.arg_name for param in parsed.params if param.description}
    hints = typing.get_type_hints(block)
    missing = [
        field.name
        for field in fields(block)
        if field.name not in described and not list(find_blocks(hints[field.name]))
    ]
    assert missing == []
