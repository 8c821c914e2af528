"""The object classes of the embedded dataset."""

from partonomy.datasets.synthetic.aircraft import AIRCRAFT
from partonomy.datasets.synthetic.animals import ANIMALS
from partonomy.datasets.synthetic.boats import BOATS
from partonomy.datasets.synthetic.cycles import CYCLES
from partonomy.datasets.synthetic.furniture import FURNITURE
from partonomy.datasets.synthetic.sketch import Blueprint
from partonomy.datasets.synthetic.vehicles import VEHICLES

BLUEPRINTS: tuple[Blueprint, ...] = AIRCRAFT + VEHICLES + CYCLES + ANIMALS + FURNITURE + BOATS


def find_blueprint(label: str) -> Blueprint:
    """Return the class called `label`, or raise a KeyError that lists the known classes."""
    for blueprint in BLUEPRINTS:
        if blueprint.label == label:
            return blueprint
    known = ", ".join(blueprint.label for blueprint in BLUEPRINTS)
    raise KeyError(f"the embedded dataset has no class {label!r}; known: {known}")
