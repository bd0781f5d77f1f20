"""A checkpoint's network for other programs: traced, written, compared, and only then named.

uint8 (or float32) clips in, logits of each stream out; normalization is inside.
"""

import json
import logging
import re
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from src.evaluation.evaluate import load_module
from src.experiment.checkpoint import CheckpointMetadata
from src.models.modules import VideoClassifier
from src.utils.console import quiet, table
from src.utils.errors import UserError
from src.utils.files import atomic_write

log = logging.getLogger(__name__)

ONNX_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
AXES = {0: "batch", 2: "frames"}  # of every clip: those that stay free
Clips = tuple[Tensor, ...]  # one (B, C, T, H, W) of each modality
Run = Callable[..., Clips]  # of the clips of each modality


class Exportable(nn.Module):
    """A trained module's normalization and network, as a function of tensors alone."""

    def __init__(self, module: VideoClassifier) -> None:
        super().__init__()
        self.module = module

    def forward(self, *clips: Tensor) -> Clips:
        """Logits (B, T', K) of each stream.

        Args:
            clips: (B, C, T, H, W) in 0..255 for each of the module's modalities, in their order.
        """
        batch = dict(zip(self.module.modalities, clips, strict=True))
        return tuple(self.module.logits(batch).values())


class ClipShape(NamedTuple):
    """The clips that an exported network takes: channels by modality, (height, width), dtype."""

    channels: dict[str, int]
    size: tuple[int, int]
    dtype: torch.dtype

    def random(self, batch: int, frames: int) -> Clips:
        """Random clips in 0..255, the same for the same number of frames."""
        generator = torch.Generator().manual_seed(frames)
        shapes = [(batch, channels, frames, *self.size) for channels in self.channels.values()]
        return tuple(
            torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(self.dtype)
            for shape in shapes
        )


class Difference(NamedTuple):
    """How far the logits of a stream are from the checkpoint's on random clips."""

    stream: str
    batch: int
    frames: int
    absolute: float  # the largest difference of a logit
    relative: float  # the same, divided by the largest absolute logit; NaN if any is NaN


class Export(NamedTuple):
    """What `export_checkpoint` has written, and the description that is in all of it."""

    description: Path
    about: dict[str, Any]
    files: dict[str, Path]  # by format
    differences: dict[str, list[Difference]]


def export_checkpoint(
    ckpt_path: str,
    output: str | Path,
    name: str | None = None,
    format: str | Sequence[str] = ("torch", "onnx"),
    size: int | Sequence[int] | None = None,
    dtype: str = "uint8",
    opset: int = 20,
    tolerance: float = 1e-4,
) -> Export:
    """Write a checkpoint's network in each format, and compare each file with the checkpoint.

    Until it has been compared, a file has the name <name>.unchecked.<ending>; one that computes
    something else keeps it. conf/export.yaml describes the arguments.

    Raises:
        UserError: the checkpoint cannot be used, a library is missing, the network cannot be
            exported, or a file computes something else.
    """
    formats = [format] if isinstance(format, str) else format
    for library in ONNX_LIBRARIES if "onnx" in formats else ():
        if find_spec(library) is None:
            raise UserError(f"format=onnx needs {library}: pip install -e '.[export]'")
    module, metadata = load_module(ckpt_path)
    data: dict[str, Any] = metadata.config["data"]
    height, width = size if isinstance(size, Sequence) else [size or data["crop_size"]] * 2
    channels = {m: 3 if m == "rgb" else 2 * data["flow_stack"] for m in module.modalities}
    shape = ClipShape(channels, (height, width), getattr(torch, dtype))
    pool = getattr(module.net, "temporal_pool", None)
    frames = pool.size + 3 * pool.stride if pool else 4  # T' of 1 would stand for 1 alone
    network = Exportable(module).eval()
    log.info("tracing the network at %d x %d pixels", height, width)
    program, least_frames = trace(network, shape, frames)
    clips = dict(zip(shape.channels, shape.random(1, frames), strict=True))
    with torch.inference_mode():
        streams = list(module.logits(clips))
    about = _describe(metadata, module.protocol.name, shape, streams, least_frames)
    if "onnx" in formats:
        about["opset"] = opset
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    if name is None:  # a stranger's experiment may be called anything
        parts = (metadata.config.get("name"), metadata.config.get("stage"))
        name = re.sub(r"\W+", "_", "_".join(str(part) for part in parts if part)) or "network"
    export = Export(folder / f"{name}.json", about, {}, {})
    for chosen in formats:
        ending, save, load = FORMATS[chosen]
        draft = folder / f"{name}.unchecked{ending}"
        with quiet():
            save(program, about, draft)
            exported = load(draft)
        log.info("%s written, comparing", chosen)
        lengths = (1, least_frames), (3, frames + 1)  # not what was traced
        differences = compare(network, exported, streams, shape, lengths)
        for difference in differences:
            if not difference.relative <= tolerance:  # NaN is neither
                raise UserError(
                    f"{draft} does not compute what the checkpoint computes: on {difference.batch} "
                    f"random clips of {difference.frames} frames its {difference.stream} logits "
                    f"differ by {difference.absolute:.2g}, {difference.relative:.2g} of the "
                    f"largest, more than tolerance={tolerance:g}; it keeps that name"
                )
        path = folder / f"{name}{ending}"
        draft.replace(path)
        export.files[chosen], export.differences[chosen] = path, differences
    with atomic_write(export.description) as draft:
        draft.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return export


def trace(network: Exportable, shape: ClipShape, frames: int) -> tuple[ExportedProgram, int]:
    """The network as a graph of clips of any number and length, and the smallest T it takes.

    `frames` is a T that stands for any.

    Raises:
        UserError: the network does something that no graph can hold.
    """
    clips = shape.random(2, frames)
    free = (dict.fromkeys(AXES, Dim.DYNAMIC),) * len(clips)
    try:
        program = torch.export.export(network, clips, dynamic_shapes={"clips": free})
    except torch._dynamo.exc.UserError as error:
        raise UserError(
            f"{type(network.module.net).__name__} cannot be exported for any number of clips and "
            f"frames: {error}"
        ) from error
    program.example_inputs = None  # they would be saved, and may be larger than the network
    inputs = program.graph_signature.user_inputs
    nodes = program.graph.find_nodes(op="placeholder")
    clip = next(node.meta["val"] for node in nodes if node.name in inputs)
    least = int(program.range_constraints[clip.shape[2].node.expr].lower)
    return program, 1 if least == 2 else least  # torch says 2 of whatever has no bound


def compare(
    original: Run,
    exported: Run,
    streams: Sequence[str],
    shape: ClipShape,
    lengths: Sequence[tuple[int, int]],
) -> list[Difference]:
    """Compare two networks on random clips of some pairs of B and T.

    Both give logits (B, T', K) of each of the `streams`.
    """
    differences = []
    for batch, frames in lengths:
        clips = shape.random(batch, frames)
        with torch.inference_mode():
            pairs = zip(streams, original(*clips), exported(*clips), strict=True)
        for name, expected, logits in pairs:
            same = expected.shape == logits.shape
            absolute = float((expected - logits).abs().max()) if same else float("inf")
            scale = max(float(expected.abs().max()), sys.float_info.min)
            differences.append(Difference(name, batch, frames, absolute, absolute / scale))
    return differences


def origin(metadata: CheckpointMetadata) -> dict[str, Any]:
    """Where a network comes from and what its input has to be, plain."""
    return {
        "experiment": metadata.config.get("name"),
        "stage": metadata.config.get("stage"),
        "split": metadata.split,
        "flow": metadata.flow,
        "normalization": metadata.normalization,
        "version": metadata.version,
    }


def _describe(
    metadata: CheckpointMetadata,
    protocol: str,
    shape: ClipShape,
    streams: list[str],
    least_frames: int,
) -> dict[str, Any]:
    """What users of the network have to know, plain."""
    value_type = str(shape.dtype).removeprefix("torch.")
    return origin(metadata) | {
        "inputs": {
            name: {"shape": ["batch", channels, "frames", *shape.size], "type": value_type}
            for name, channels in shape.channels.items()
        },
        "values": "0..255, normalized inside; flow as u1, v1, u2, v2, ...",
        "least_frames": least_frames,
        "outputs": {stream: ["batch", "time", len(metadata.class_names)] for stream in streams},
        "scores": "logits; a clip's score is their mean over time and outputs",
        "class_names": metadata.class_names,
        "protocol": protocol,
        "notes": metadata.config.get("notes"),
    }


def save_torch(program: ExportedProgram, about: dict[str, Any], path: Path) -> None:
    """Write a file for `torch.export.load`, C++ and AOTInductor, with a description.json in it."""
    torch.export.save(program, path, extra_files={"description.json": json.dumps(about)})


def save_onnx(program: ExportedProgram, about: dict[str, Any], path: Path) -> None:
    """Write an .onnx file, with the description as its metadata_props: texts, or JSON."""
    exported = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=about["opset"],
        input_names=list(about["inputs"]),
        output_names=list(about["outputs"]),
        dynamic_shapes={"clips": (AXES,) * len(about["inputs"])},
        verbose=False,
    )
    if exported is None or exported.model.opset_imports[""] != about["opset"]:
        raise UserError(f"opset={about['opset']} is not one that torch can write: choose 20")
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
    exported.model.metadata_props.update(texts)
    exported.save(path, external_data=False)


def load_onnx(path: Path) -> Run:
    """The network in a file of `save_onnx`, run by ONNX Runtime on the CPU."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.log_severity_level = 3  # errors
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(*clips: Tensor) -> Clips:
        arrays = {name: clip.numpy() for name, clip in zip(names, clips, strict=True)}
        return tuple(torch.from_numpy(logits) for logits in session.run(None, arrays))

    return run


FORMATS: dict[str, tuple[str, Callable[..., None], Callable[[Path], Run]]] = {
    "torch": (".pt2", save_torch, lambda path: torch.export.load(path).module()),
    "onnx": (".onnx", save_onnx, load_onnx),
}


def show_export(export: Export) -> None:
    """Print how far each file is from the checkpoint, and what it takes and gives."""
    columns = ("file", "clips x frames", "output", "largest", "relative to the logits")
    rows = [
        (format, f"{batch} x {frames}", stream, f"{absolute:.2g}", f"{relative:.2g}")
        for format, differences in export.differences.items()
        for stream, batch, frames, absolute, relative in differences
    ]
    title = "differences from the checkpoint's logits"
    Console().print(table(columns, rows, title, left=("file", "output")))
    about = export.about
    for name, entry in about["inputs"].items():
        print(f"input {name}: ({', '.join(map(str, entry['shape']))}), {entry['type']} 0..255")
    for name, axes in about["outputs"].items():
        print(f"output {name}: ({', '.join(map(str, axes))}), logits")
    print(f"frames: from {about['least_frames']}; protocol: {about['protocol']}")
    if "opset" in about:
        print(f"ONNX opset: {about['opset']}")
    for path in export.files.values():
        print(f"written to {path} ({path.stat().st_size / 2**20:.1f} MiB)")
    print(f"described in {export.description}")
