"""Write a checkpoint's network as files that other programs run: torch.export's and ONNX.

    python -m src.export ckpt_path=joint.ckpt
    python -m src.export ckpt_path=joint.ckpt format=onnx size=[256,340] output=served

Batch size and number of frames stay free, the size of the frames is fixed. Both files take what the
loader gives, 0..255, and return the logits of each stream. Needs pip install -e '.[export]'.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.cli import command
from src.values import PATH


@command("export", ckpt_path=PATH, output=PATH)
def main(cfg: DictConfig) -> None:
    """Write the files, print how far they are from the checkpoint and what they need."""
    # Imported here: --help and mistakes in the config do not wait for torch.
    from src.exporting.export import Options, export_checkpoint
    from src.exporting.table import show_export

    config: Any = OmegaConf.to_container(cfg, throw_on_missing=True)
    options = Options(
        output=Path(config["output"]),
        name=config["name"],
        formats=config["format"],
        size=config["size"],
        dtype=config["dtype"],
        opset=config["opset"],
        tolerance=config["tolerance"],
    )
    show_export(export_checkpoint(str(config["ckpt_path"]), options))


if __name__ == "__main__":
    main()
