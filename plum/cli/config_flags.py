"""`--config FILE`: read a command's flags from a YAML file."""

from collections.abc import Sequence
from pathlib import Path

from partonomy.cli.config_files import FLAG
from partonomy.yaml_files import read_yaml

HELP = "YAML file with any of the other flags (`question: ...`); command-line flags take precedence"


def expand_config(arguments: Sequence[str]) -> list[str]:
    """Replace `--config FILE` by the flags of the YAML file, placed before all other flags.

    A flag of the command line takes the place of the file's, also if it can be repeated. `true` gives a flag without a
    value; a list repeats the flag for each of its values.

    Args:
        arguments: a command's name and its flags.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: `--config` has no file, or the file is not a mapping of flags to values.
    """
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith(f"{FLAG}=") else [word])]
    if FLAG not in words:
        return list(arguments)
    at = words.index(FLAG)
    if at + 1 == len(words):
        raise ValueError(f"{FLAG} must be followed by the name of a YAML file")
    path = Path(words[at + 1])
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (given by {FLAG}); correct the path")
    command, others = words[:1], [*words[1:at], *words[at + 2 :]]
    given = {word.split("=", 1)[0] for word in others if word.startswith("--")}
    of_file = [word for word in _read_flags(path) if word.split("=", 1)[0] not in given]
    return [*command, *of_file, *others]


def _read_flags(path: Path) -> list[str]:
    settings = read_yaml(path)
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ValueError(f"{path}: expected lines of the form `flag: value`")
    flags: list[str] = []
    for key, value in settings.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict) or one is None:
                raise ValueError(f"{path}: {key} has a value that no flag can take: {one!r}")
            if one is not False:
                flags.append(f"--{key}" if one is True else f"--{key}={one}")
    return flags
