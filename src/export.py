"""Write a checkpoint's network as files that other programs run: torch.export's and ONNX.

    python -m src.export ckpt_path=joint.ckpt
    python -m src.export ckpt_path=joint.ckpt format=onnx size=[256,340] output=served

Batch size and number of frames stay free, the size of the frames is fixed. Both files take what the
loader gives, 0..255, and return the logits of each stream. Needs pip install -e '.[export]'.
"""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.cli import command
from src.utils.values import NULL, PATH, Need, integer, number, one_of

FORMATS, PIXELS = ("torch", "onnx"), integer(1)
NEEDS = {
    "ckpt_path": PATH,
    "output": PATH,
    "name": Need("letters, digits, dots, + and -", lambda n: re.fullmatch(r"[\w.+-]+", n)) | NULL,
    "format": one_of(*FORMATS) | Need("both in a list", lambda f: f and set(f) <= set(FORMATS)),
    "size": PIXELS | Need("two", lambda s: len(s) == 2 and all(map(PIXELS.fits, s))) | NULL,
    "dtype": one_of("uint8", "float32"),
    "opset": integer(18),
    "tolerance": number("a number above 0", lambda tolerance: tolerance > 0),
}


@command("export", **NEEDS)
def main(cfg: DictConfig) -> None:
    """Write the files, print how far they are from the checkpoint and what they need."""
    from src.exporting.network import export_checkpoint, show_export

    config: Any = OmegaConf.to_container(cfg, throw_on_missing=True)
    show_export(export_checkpoint(**config))


if __name__ == "__main__":
    main()
