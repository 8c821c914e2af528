"""Adapter for COCO-style part annotations: ADE20K-like files, COCO-Annotator exports, users' own data.

Parts are told from objects by `supercategory` (OBJECT / PART), by names `object:part`, or, in files that annotate parts
only, by the object name the user gives.
"""

from partonomy.datasets.assembly import SourceNames, SourceReading, assemble
from partonomy.datasets.coco_records import CocoConfig, read_coco_records


def read_coco(config: CocoConfig) -> SourceReading:
    """Read a COCO-style annotation file.

    Raises:
        FileNotFoundError: the file, or an image of it, is missing.
        ValueError: a broken file or record, naming both.
    """
    name = config.name or config.annotations.resolve().parent.name
    return assemble(read_coco_records(config), config, SourceNames(name))
