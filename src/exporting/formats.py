"""The two formats: how each is written, and how a file of it is run again."""

import contextlib
import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from src.errors import UserError
from src.exporting.description import as_texts
from src.exporting.network import AXES, Clips

Run = Callable[[Clips], Clips]
ONNX_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


class Format(ABC):
    """A kind of file for a network."""

    name: str
    ending: str

    @abstractmethod
    def write(self, program: ExportedProgram, about: dict[str, Any], path: Path) -> None:
        """Write a network and what `describe` tells about it."""

    @abstractmethod
    def load(self, path: Path) -> Run:
        """The network in a file, as a function of clips."""


class TorchFormat(Format):
    """A .pt2 file for `torch.export.load`, C++ and AOTInductor."""

    name, ending = "torch", ".pt2"

    def write(self, program: ExportedProgram, about: dict[str, Any], path: Path) -> None:
        """Write it; the description is its extra file description.json."""
        extra = {"description.json": json.dumps(about)}
        with quiet():
            torch.export.save(program, path, extra_files=extra)

    def load(self, path: Path) -> Run:
        """Load it."""
        with quiet():
            network = torch.export.load(path).module()
        return lambda clips: network(*clips)


class OnnxFormat(Format):
    """An .onnx file.

    Args:
        modalities: names of the inputs.
        streams: names of the outputs.
        opset: the version of ONNX's operators.
    """

    name, ending = "onnx", ".onnx"

    def __init__(self, modalities: Sequence[str], streams: Sequence[str], opset: int) -> None:
        self.modalities, self.streams, self.opset = list(modalities), list(streams), opset

    def write(self, program: ExportedProgram, about: dict[str, Any], path: Path) -> None:
        """Write it; the description is its metadata_props."""
        with quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=self.opset,
                input_names=self.modalities,
                output_names=self.streams,
                dynamic_shapes={"clips": (AXES,) * len(self.modalities)},
                verbose=False,
            )
        if exported is None or exported.model.opset_imports[""] != self.opset:
            raise UserError(f"opset={self.opset} is not one that torch can write: choose 20")
        exported.model.metadata_props.update(as_texts(about | {"opset": self.opset}))
        exported.save(path, external_data=False)

    def load(self, path: Path) -> Run:
        """Open it with ONNX Runtime, on the CPU."""
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.log_severity_level = 3  # errors
        session = InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def run(clips: Clips) -> Clips:
            inputs = {name: clip.numpy() for name, clip in zip(self.modalities, clips, strict=True)}
            return tuple(torch.from_numpy(logits) for logits in session.run(self.streams, inputs))

        return run


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters tell of themselves at length; what fails comes as an exception."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
