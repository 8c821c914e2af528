"""The object classes of the embedded dataset."""

from partonomy.datasets.drawing.aircraft import AIRCRAFT
from partonomy.datasets.drawing.animals import ANIMALS
from partonomy.datasets.drawing.boats import BOATS
from partonomy.datasets.drawing.cycles import CYCLES
from partonomy.datasets.drawing.furniture import FURNITURE
from partonomy.datasets.drawing.sketch import Blueprint
from partonomy.datasets.drawing.vehicles import VEHICLES

BLUEPRINTS: tuple[Blueprint, ...] = AIRCRAFT + VEHICLES + CYCLES + ANIMALS + FURNITURE + BOATS


def find_blueprint(label: str) -> Blueprint:
    """Return the class called `label`; KeyError lists the classes there are."""
    for blueprint in BLUEPRINTS:
        if blueprint.label == label:
            return blueprint
    known = ", ".join(blueprint.label for blueprint in BLUEPRINTS)
    raise KeyError(f"the embedded dataset draws no class {label!r}; it draws: {known}")
