"""`python -m plum costs`: memory and FLOPs of configurations beside the rows of the MMR paper's Table 7."""

from pathlib import Path

from partonomy.table_format import TableFormat, render_table

OVERLAY_MARK = "+"


def costs(
    configs: tuple[str, ...],
    *,
    gpus: int = 4,
    tokens: int = 2048,
    masks: int = 1,
    format: TableFormat = TableFormat.TEXT,
) -> None:
    """Print memory and FLOPs of configurations (the MMR paper's Table 7).

    Args:
        configs: YAML files of runs, with overlays after plus signs (FILE+OVERLAY)
        gpus: number of GPUs of the training
        tokens: tokens of the conversation, image patches included; the default is all that LLaMA 1 takes
        masks: masks of the answer
        format: form of the table

    Raises:
        FileNotFoundError: a configuration does not exist.
        ValueError: a configuration or a number is wrong.
    """
    from plum.doctor.costs import cost_table
    from plum.doctor.memory import NamedRun
    from plum.training.config_file import load_train_config

    if gpus < 1:
        raise ValueError(f"--gpus {gpus}: at least 1")
    runs = []
    for word in configs:
        paths = [Path(part) for part in word.split(OVERLAY_MARK)]
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such configuration; correct the path")
        config = load_train_config([flag for path in paths for flag in ("--config", str(path))])
        runs.append(NamedRun(OVERLAY_MARK.join(path.stem for path in paths), config))
    table = cost_table(runs, gpus, tokens, masks)
    print(render_table(table, format))
