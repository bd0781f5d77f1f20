"""Export a checkpoint: trace, write, compare, and only then give the files their names."""

import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from src.errors import UserError
from src.evaluation.evaluate import load_module
from src.experiment.checkpoints import Description
from src.exporting.check import Difference, compare
from src.exporting.description import describe
from src.exporting.formats import ONNX_LIBRARIES, Format, OnnxFormat, TorchFormat
from src.exporting.libraries import check_installed
from src.exporting.network import ClipShape, Exportable, output_names, trace
from src.values import check_choice, check_choices
from src.whole_files import whole

log = logging.getLogger(__name__)
FORMATS = ("torch", "onnx")
DTYPES = {"uint8": torch.uint8, "float32": torch.float32}


@dataclass(frozen=True)
class Options:
    """How to export.

    Args:
        output: folder for the files.
        name: of the files, without ending; None is that of the experiment and the stage.
        formats: "torch", "onnx" or both.
        size: height and width in pixels, or one number for both; None is the crop's.
        dtype: of the clips, "uint8" or "float32".
        opset: of ONNX.
        tolerance: largest difference of a logit, relative to the largest logit.

    Raises:
        UserError: an unknown choice, or a number that is none.
    """

    output: Path
    name: str | None = None
    formats: str | Sequence[str] = FORMATS
    size: int | Sequence[int] | None = None
    dtype: str = "uint8"
    opset: int = 20
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        formats = [self.formats] if isinstance(self.formats, str) else list(self.formats or ())
        if not formats:
            raise UserError(f"format={self.formats}: choose from {', '.join(FORMATS)}")
        try:
            check_choices("format", formats, FORMATS)
            check_choice("dtype", self.dtype, DTYPES)
        except ValueError as error:
            raise UserError(str(error)) from error
        object.__setattr__(self, "formats", tuple(formats))
        if self.size is not None:
            size = [self.size] * 2 if isinstance(self.size, int) else list(self.size)
            if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
                raise UserError(f"size={self.size}: needs pixels, as in size=224 or size=[256,340]")
            object.__setattr__(self, "size", tuple(size))
        if not isinstance(self.opset, int) or self.opset < 18:
            raise UserError(f"opset={self.opset}: needs a whole number from 18")
        if not (isinstance(self.tolerance, int | float) and self.tolerance > 0):
            raise UserError(f"tolerance={self.tolerance}: needs a number above 0")
        if self.name is not None and not re.fullmatch(r"[\w.+-]+", str(self.name)):
            raise UserError(f"name={self.name}: needs letters, digits, dots, + and - alone")


@dataclass(frozen=True)
class ExportedFile:
    """One file, and how far it is from the checkpoint."""

    path: Path
    format: str
    seconds: float
    differences: list[Difference]


@dataclass(frozen=True)
class Export:
    """What `export_checkpoint` has written, and the description that is in all of it."""

    beside: Path
    about: dict[str, Any]
    files: list[ExportedFile] = field(default_factory=list)


def export_checkpoint(ckpt_path: str, options: Options) -> Export:
    """Write a checkpoint's network in each format, and compare each file with the checkpoint.

    Until it has been compared, a file has the name <name>.unchecked.<ending>; one that computes
    something else keeps it.

    Args:
        ckpt_path: a checkpoint of this project.
        options: how.

    Raises:
        UserError: the checkpoint cannot be used, a library is missing, the network cannot be
            exported, or a file computes something else.
    """
    if "onnx" in options.formats:
        check_installed("format=onnx", *ONNX_LIBRARIES)
    module, description = load_module(ckpt_path)
    data: dict[str, Any] = description.config["data"]
    size: Any = options.size or (data["crop_size"],) * 2
    shape = ClipShape.of(module, data["stack"], size, DTYPES[options.dtype])
    network = Exportable(module).eval()
    streams = output_names(network, shape)
    formats: dict[str, Format] = {
        "torch": TorchFormat(),
        "onnx": OnnxFormat(list(shape.channels), streams, options.opset),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    name = options.name or _name_of(description)
    begin = time.perf_counter()
    log.info("tracing the network at %d x %d pixels", *shape.size)
    program, shape = trace(network, shape)
    log.info("traced in %.1f s", time.perf_counter() - begin)
    about = describe(description, module.protocol, shape, streams)
    if "onnx" in options.formats:
        about["opset"] = options.opset
    export = Export(options.output / f"{name}.json", about)
    for chosen in options.formats:
        kind = formats[chosen]
        begin = time.perf_counter()
        draft = options.output / f"{name}.unchecked{kind.ending}"
        kind.write(program, about, draft)
        seconds = time.perf_counter() - begin
        log.info("%s written in %.1f s, comparing", kind.name, seconds)
        differences = compare(lambda clips: network(*clips), kind.load(draft), streams, shape)
        _check(differences, draft, options.tolerance)
        path = options.output / f"{name}{kind.ending}"
        draft.replace(path)
        export.files.append(ExportedFile(path, kind.name, seconds, differences))
    with whole(export.beside) as draft:
        draft.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return export


def _name_of(description: Description) -> str:
    """The experiment's and the stage's; a stranger's may hold anything."""
    parts = (description.config.get("name"), description.config.get("stage"))
    return re.sub(r"\W+", "_", "_".join(str(part) for part in parts if part)) or "network"


def _check(differences: Sequence[Difference], draft: Path, tolerance: float) -> None:
    for one in differences:
        if not one.relative <= tolerance:  # NaN is neither
            raise UserError(
                f"{draft} does not compute what the checkpoint computes: on {one.batch} random "
                f"clips of {one.frames} frames its {one.output} logits differ by "
                f"{one.absolute:.2g}, {one.relative:.2g} of the largest, more than "
                f"tolerance={tolerance:g}; it keeps that name"
            )
