"""A folder of flow belongs to one way of making it: flow.json in it says which."""

from dataclasses import asdict
from pathlib import Path

from src.errors import UserError
from src.flow.settings import FILE_NAME, FlowSettings


def claim(output: Path, settings: FlowSettings, format: str) -> None:
    """Make the folder and write its flow.json, or make sure that what is there goes together.

    Raises:
        UserError: the folder holds flow in the other format, or made with other settings.
    """
    contents = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
    formats = {
        "jpeg": any((output / component).exists() for component in "uv"),
        "zip": any(".zip" in name for name in contents),  # .zip.partial and .zip.001, too
    }
    there = [name for name, is_there in formats.items() if is_there]
    if there and FILE_NAME not in contents:
        raise UserError(
            f"{output} holds flow without {FILE_NAME}, so made in an unknown way: "
            "give another output folder"
        )
    if there and there != [format]:
        raise UserError(
            f"{output} holds flow in format {there[0]}, not {format}: go on with "
            f"format={there[0]}, or give another output folder"
        )
    output.mkdir(parents=True, exist_ok=True)
    settings.save(output)
    existing = FlowSettings.load(output)  # another shard may have been faster
    differences = _differences(existing, settings) if existing else []
    if differences:
        raise UserError(
            f"{output} holds flow made with other settings ({'; '.join(differences)}): give "
            f"another output folder, or the settings of {output / FILE_NAME}"
        )


def _differences(existing: FlowSettings, settings: FlowSettings) -> list[str]:
    there, here = asdict(existing), asdict(settings)
    parameters_there, parameters_here = there.pop("parameters"), here.pop("parameters")
    if existing.algorithm == settings.algorithm:  # of two algorithms they have nothing in common
        there |= parameters_there
        here |= parameters_here
    return [
        f"{key} {there.get(key)} there, {here.get(key)} now"
        for key in here | there
        if there.get(key) != here.get(key)
    ]
