"""What an export has come to, on the terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from src.exporting.export import Export


def show_export(export: Export) -> None:
    """Print how far each file is from the checkpoint, and what it takes and gives."""
    table = Table(title="differences from the checkpoint's logits", title_justify="left")
    for column in ("file", "clips x frames", "output", "largest", "relative to the logits"):
        table.add_column(column, justify="left" if column in ("file", "output") else "right")
    for file in export.files:
        for one in file.differences:
            where = (file.format, f"{one.batch} x {one.frames}", escape(one.output))
            table.add_row(*where, f"{one.absolute:.2g}", f"{one.relative:.2g}")
    Console().print(table)
    about = export.about
    for name, entry in about["inputs"].items():
        print(f"input {name}: {_axes(entry['shape'])}, {entry['type']} 0..255")
    for name, axes in about["outputs"].items():
        print(f"output {name}: {_axes(axes)}, logits")
    print(f"frames: from {about['least_frames']}; protocol: {about['protocol']}")
    if "opset" in about:
        print(f"ONNX opset: {about['opset']}")
    for file in export.files:
        size = file.path.stat().st_size / 2**20
        print(f"written to {file.path} ({size:.1f} MiB, {file.seconds:.1f} s)")
    print(f"described in {export.beside}")


def _axes(shape: list[str | int]) -> str:
    return f"({', '.join(str(axis) for axis in shape)})"
