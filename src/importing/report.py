"""An imported model in words."""

from collections.abc import Iterator, Sequence

from src.importing.checkpoint import Imported


def report(imported: Imported) -> Iterator[str]:
    """What was recognised and used, and what had to be put in, line by line."""
    found, description = imported.architecture, imported.description
    yield (
        f"{description.config['name']}, split {description.split}, stage "
        f"{description.config['stage']}: {found.classes} classes"
    )
    for name, stream in found.streams.items():
        yield f"{name}: ResNet-{stream.depth} over {stream.channels} channels"
    if found.connection != "none":
        stages = ", ".join(f"conv{stage + 1}_x" for stage in found.connected)
        pool = (
            f"{found.pool.kind} {found.pool.size} / {found.pool.stride}" if found.pool else "none"
        )
        yield f"connections: {found.connection}, motion to appearance, at {stages}"
        yield f"temporal filters: {found.filters}, in {' and '.join(found.filtered) or 'no stream'}"
        yield f"temporal pool: {pool}"
    for modality, reader in (("rgb", "appearance"), ("flow", "motion")):
        if reader in found.streams:
            yield f"subtracted from {modality}: {_plain(description.normalisation, modality)}"
    used = len({weight.source for weight in imported.weights.values() if weight.in_file})
    yield f"used: all {used} parameters, and all layers but losses"
    for name, weight in imported.weights.items():
        if not weight.in_file:
            yield f"not in the file: {name}, {weight.source}"


def _plain(normalisation: dict[str, float | Sequence[float]], modality: str) -> str:
    mean = normalisation[f"{modality}_mean"]
    numbers = [mean] if isinstance(mean, (int, float)) else mean
    return " ".join(f"{number:.6g}" for number in numbers)
