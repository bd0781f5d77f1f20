"""Turn a model that the authors released for MatConvNet into a checkpoint of this project.

    python -m src.import_matconvnet input=ucf101-ST-ResNet50-final-split=1.mat output=released.ckpt
    python -m src.import_matconvnet input=net.mat output=released.ckpt split=2 listing=tensors.csv
    python -m src.evaluate ckpt_path=released.ckpt

Base streams, ST-ResNet (both stages) and ST-MulNet are recognized by their layers; anything else is
refused.
"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from src.cli import command
from src.utils.values import NULL, PATH


def main() -> None:
    """Import, write the checkpoint, say what was found."""
    sys.argv[1:] = [quoted(argument) for argument in sys.argv[1:]]
    run()


@command("import_matconvnet", input=PATH, output=PATH, listing=PATH | NULL)
def run(cfg: DictConfig) -> None:
    """Import the file that the config names."""

    from src.importing.checkpoint import import_model, report

    imported = import_model(str(cfg.input), cfg.split)
    imported.save(Path(cfg.output))
    for line in report(imported):
        print(line)
    if cfg.listing:
        imported.save_listing(Path(cfg.listing))
        print(f"which parameter became which tensor: {cfg.listing}")
    print(f"written to {cfg.output}")


def quoted(argument: str) -> str:
    """An argument whose value has a = of its own, as the released file names do, for Hydra."""
    key, _, value = argument.partition("=")
    plain = "=" in value and not set(value) & set("\\'\"")
    return f"{key}='{value}'" if plain else argument


if __name__ == "__main__":
    main()
