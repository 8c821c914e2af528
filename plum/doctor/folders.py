"""Check that the data and weight folders that a configuration names exist and are complete."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from plum.checkpoints.model_config_io import describe_conversion
from plum.checkpoints.store import BASE_FILE, read_base_record
from plum.config import ModelConfig, Sam2Config
from plum.data.build import check_source
from plum.data.catalogue import CATALOGUE, DATA_OF_KIND, survey
from plum.data.catalogue import State as DataState
from plum.data.download_sources import find_marker
from plum.doctor.file_hashes import hash_large_files
from plum.doctor.findings import Finding, State
from plum.inputs.tokenizer import load_model_tokenizer
from plum.models.systems.special_tokens import add_written_tokens
from plum.train_config import DataConfig, SourceConfig, TrainConfig
from plum.training.initialise import architecture_of, require_same_backbone

WEIGHTS = "*.safetensors"


def examine_data(data: DataConfig) -> list[Finding]:
    """Examine every source, and the question folders whose images are excluded or counted.

    Raises:
        ValueError: a source's configuration is wrong; see `check_source`.
    """
    findings = [_examine_source(source, data) for source in data.sources]
    for key, folders in (("exclude_images", data.exclude_images), ("count_images", data.count_images)):
        for folder in folders:
            is_there = Path(folder).exists()
            to_do = "" if is_there else "make it with `python -m partonomy build` or `import`, or remove the entry"
            found = folder if is_there else f"{folder} does not exist"
            findings.append(Finding(State.FINE if is_there else State.MISSING, f"data.{key}", found, to_do))
    return findings


def _examine_source(source: SourceConfig, data: DataConfig) -> Finding:
    check_source(source, data)
    marker = find_marker(source, data.dataset_dir)
    name = f"{source.kind} {source.dataset or source.path}".strip()
    if not marker.exists():
        state = State.REMARK if data.allow_missing else State.MISSING
        left_out = "left out (data.allow_missing)" if data.allow_missing else "--data.allow_missing true skips it"
        return Finding(state, name, f"{marker} does not exist", f"{_where_from(source, data)}{left_out}")
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
    return f"python -m plum data-status --root {data.dataset_dir} shows where to get it; "


@dataclass(frozen=True)
class WeightFolder:
    """A saved model and the bases under it.

    Attributes:
        folders: the folder itself, then the base it was trained over, and so on.
        hashes: ("folder/file", SHA-256) of each weight file, in order.
        sha256: hash over all of them, without folder names; the key of known answers.
    """

    folders: tuple[Path, ...]
    hashes: tuple[tuple[str, str], ...]
    sha256: str


def examine_weights(config: TrainConfig, cache: Path, is_quiet: bool = False) -> list[Finding]:
    """Examine `init_from` and `tokenizer`.

    Args:
        config: the run.
        cache: file of cached hashes, see `plum.doctor.file_hashes`.
        is_quiet: show no progress bar.
    """
    findings = []
    if config.init_from is None:
        findings.append(Finding(State.FINE, "init_from", "none: trains from scratch"))
    else:
        findings += _examine_folder(config, Path(config.init_from), cache, is_quiet)
    if config.tokenizer is not None:
        is_there = Path(config.tokenizer).is_dir()
        found = config.tokenizer if is_there else f"{config.tokenizer} does not exist"
        findings.append(Finding(State.FINE if is_there else State.MISSING, "tokenizer", found))
    return findings


def hash_weight_files(folder: Path, cache: Path, is_quiet: bool = False) -> WeightFolder:
    """Hash the weight files of a saved model and of the bases under it.

    Raises:
        FileNotFoundError: a folder or its weights are missing.
    """
    folders = _chain(folder)
    files = [file for one in folders for file in _weight_files(one)]
    hashes = hash_large_files(files, cache, is_quiet)
    whole = hashlib.sha256("\n".join(f"{file.name} {hashes[file]}" for file in files).encode()).hexdigest()
    named = tuple((f"{file.parent.name}/{file.name}", hashes[file]) for file in files)
    return WeightFolder(folders, named, whole)


def _chain(folder: Path) -> tuple[Path, ...]:
    """Return a saved model and the bases under it."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist")
    base_file = folder / BASE_FILE
    if not base_file.is_file():
        return (folder,)
    return (folder, *_chain(Path(read_base_record(folder).base)))


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob(WEIGHTS))
    if not files:
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS}; is it the folder of a saved model?")
    return files


def _examine_folder(config: TrainConfig, folder: Path, cache: Path, is_quiet: bool) -> list[Finding]:
    try:
        found = hash_weight_files(folder, cache, is_quiet)
        size = sum(file.stat().st_size for one in found.folders for file in _weight_files(one))
        tokenizer = load_model_tokenizer(config.tokenizer or folder, config.model)
        added = add_written_tokens(config.model, tokenizer)
        require_same_backbone(architecture_of(config.model, str(folder), tokenizer, added), str(folder))
    except (FileNotFoundError, ValueError) as error:
        return [Finding(State.MISSING, "init_from", str(error), _how_to_make(folder, config.model))]
    findings = [Finding(State.FINE, "init_from", f"{folder}, {size / 1e9:.2f} GB, this run's architecture")]
    findings += [Finding(State.FINE, f"  {name}", sha256) for name, sha256 in found.hashes]
    return [*findings, Finding(State.FINE, "  all of them", found.sha256)]


def _how_to_make(folder: Path, model: ModelConfig) -> str:
    """Say how to make a folder that cannot be used; a run's model is in RUN/model."""
    if command := describe_conversion(folder):
        return command
    if folder.name == "model":
        return f"the model of the run {folder.parent}: train that one first"
    if model.hf is not None or isinstance(model.sam, Sam2Config):
        return f"python -m plum adopt STOCK_FOLDER {folder} --sam SAM_FILE_OR_FOLDER"
    if model.system == "calico":
        return f"python -m plum convert GLAMM_FOLDER {folder} --system calico --blip BLIP_FOLDER --dino DINO_FOLDER"
    return f"python -m plum convert-llava LLAVA_FOLDER {folder} --sam SAM_FILE --config THIS_CONFIG"
