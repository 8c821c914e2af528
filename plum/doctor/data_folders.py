"""The data a configuration trains on: source by source, and the benchmark's images it leaves out."""

from pathlib import Path

from plum.data.build import check_source
from plum.data.catalogue import CATALOGUE, DATA_OF_KIND, survey
from plum.data.catalogue import State as DataState
from plum.data.downloads import find_marker
from plum.doctor.findings import Finding, State
from plum.train_config import DataConfig, SourceConfig


def examine_data(data: DataConfig) -> list[Finding]:
    """Look at every source, and at the question folders whose images are left out or counted.

    Raises:
        ValueError: a source's configuration is wrong; see `check_source`.
    """
    findings = [_examine_source(source, data) for source in data.sources]
    for key, folders in (("exclude_images", data.exclude_images), ("count_images", data.count_images)):
        for folder in folders:
            is_there = Path(folder).exists()
            to_do = "" if is_there else "make it with `python -m partonomy build` or `import`, or take it off the list"
            found = folder if is_there else f"{folder} is not there"
            findings.append(Finding(State.FINE if is_there else State.MISSING, f"data.{key}", found, to_do))
    return findings


def _examine_source(source: SourceConfig, data: DataConfig) -> Finding:
    check_source(source, data)
    marker = find_marker(source, data.dataset_dir)
    name = f"{source.kind} {source.dataset or source.path}".strip()
    if not marker.exists():
        state = State.REMARK if data.allow_missing else State.MISSING
        left_out = "left out (data.allow_missing)" if data.allow_missing else "--data.allow_missing true leaves it out"
        return Finding(state, name, f"{marker} is not there", f"{_where_from(source, data)}{left_out}")
    if source.path:
        return Finding(State.FINE, name, source.path)
    return _examine_download(source, name, data)


def _examine_download(source: SourceConfig, name: str, data: DataConfig) -> Finding:
    """Count the files of a download, as `python -m plum data-status` does."""
    assert data.dataset_dir is not None  # check_source
    wanted = source.dataset or DATA_OF_KIND[source.kind]
    entries = [entry for entry in CATALOGUE if entry.name == wanted]
    (status,) = survey(Path(data.dataset_dir), entries)
    counts = ", ".join(f"{found.need.what} {found.count:,}" for found in status.found)
    if status.state is DataState.THERE:
        return Finding(State.FINE, name, counts)
    return Finding(State.MISSING, name, counts, f"python -m plum data-status --root {data.dataset_dir} --missing")


def _where_from(source: SourceConfig, data: DataConfig) -> str:
    if source.path:
        return "make it with `python -m partonomy build`; "
    return f"python -m plum data-status --root {data.dataset_dir} says where to get it; "
