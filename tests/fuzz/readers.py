"""Every reader with damaged input, and what it may do with it."""

from pathlib import Path

from tests.fuzz.benchmark_readers import make_benchmark_readers
from tests.fuzz.multi_target_readers import make_multi_target_readers
from tests.fuzz.pixel_readers import make_pixel_readers
from tests.fuzz.question_readers import make_question_readers
from tests.fuzz.source_readers import make_source_readers
from tests.fuzz.tool_readers import make_tool_readers
from tests.fuzz.training_readers import make_training_readers
from tests.fuzz.trial import Reader


def make_readers(folder: Path) -> tuple[Reader, ...]:
    """All readers. `folder` gets the valid files that some strategies damage."""
    return (
        *make_source_readers(folder),
        *make_question_readers(folder),
        *make_pixel_readers(),
        *make_benchmark_readers(folder / "benchmarks"),
        *make_training_readers(folder / "training"),
        *make_multi_target_readers(),
        *make_tool_readers(),
    )
