"""The papers' numbers, and in which respects a row is not like the one it stands beside."""

import contextlib
import csv
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from src.cli import CONF_DIR
from src.commands import shown_command
from src.errors import UserError
from src.experiment.config import StageConfig, stage_config
from src.flow.settings import FlowSettings
from src.models.temporal import STREAMS
from src.reporting.naming import differences
from src.reporting.rows import Row
from src.reporting.settings import Settings, settings_of, settings_of_fused

SPLITS = [1, 2, 3]
_FILE = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class Published:
    """A number out of a paper: top-1 in percent, the mean over the three splits.

    Args:
        model: its name.
        dataset: its name.
        top1: percent.
        rows: pattern of "experiment/stage" of what repeats it here; "" if nothing does.
        experiment: that trains it here; "" if none does.
        protocol: of the published test; "" if nothing here repeats it.
        source: where the number is known from.
        verified: whether it was seen there, not remembered.
    """

    model: str
    dataset: str
    top1: float
    rows: str
    experiment: str
    protocol: str
    source: str
    verified: bool

    @property
    def command(self) -> str | None:
        """What trains it on all splits; None if nothing here does."""
        if not self.experiment:
            return None
        splits = ",".join(map(str, SPLITS))
        return shown_command("train", "-m", f"experiment={self.experiment}", f"data.split={splits}")

    @property
    def origin(self) -> str:
        """The source, with a warning if nobody has looked it up."""
        return self.source if self.verified else f"{self.source}, not verified"

    def repeated_by(self, row: Row) -> bool:
        """Whether a row is this model, trained here and tested on all videos."""
        first = row.first
        if first.partial or first.dataset != self.dataset:
            return False
        return fnmatchcase(f"{first.experiment}/{first.stage}", self.rows)


@cache
def read_published() -> tuple[Published, ...]:
    """All published numbers, in the order in which they are shown."""
    with _FILE.open(newline="", encoding="utf-8") as file:
        return tuple(
            Published(**line | {"top1": float(line["top1"]), "verified": line["verified"] == "yes"})
            for line in csv.DictReader(file)
        )


def published_of(row: Row) -> Published | None:
    """The published number that a row stands beside."""
    return next((one for one in read_published() if one.repeated_by(row)), None)


def unlike(row: Row, published: Published) -> list[str]:
    """In which respects a row is not what was published; nothing if a comparison is fair."""
    remarks = []
    if row.splits != SPLITS:
        splits = ", ".join(map(str, row.splits))
        remarks.append(f"split{'s' if len(row.splits) > 1 else ''} {splits} only")
    if row.first.protocol != published.protocol:
        remarks.append("other protocol than published")
    as_published = _settings_in_conf(published.experiment, row.first.stage)
    if as_published is None:
        return [*remarks, f"not compared with experiment={published.experiment}, which is gone"]
    changes = _changes(row.first.settings, as_published)
    return [*remarks, f"changed: {changes}"] if changes else remarks


def _changes(settings: Settings, as_published: Settings) -> str:
    """What is not as in the experiment that repeats the paper."""
    if not any(name.startswith("flow.") for _, name in settings):  # not known, or no flow
        as_published = {k: v for k, v in as_published.items() if not k[1].startswith("flow.")}
    return differences([settings, as_published])[0]


@cache
def _settings_in_conf(experiment: str, stage: str) -> Settings | None:
    """The settings of a stage as its experiment's file has them; None if there is no such file."""
    try:
        with _hydra():
            cfg = compose("train", [f"experiment={experiment}"])
        records = {name: _record(stage_config(cfg, name)) for name in cfg.stages}
    except (HydraException, OmegaConfBaseException, UserError):
        return None

    def find(source: str, folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
        return (Path(source), records[source]) if source in records else None

    if stage in records:
        return settings_of(records[stage], Path(stage), find)
    if not set(STREAMS) <= set(records):
        return None
    return settings_of_fused(
        {stream: settings_of(records[stream], Path(stream), find) for stream in STREAMS}
    )


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    """Hydra as the command has set it up, or set up here."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        yield


def _record(config: StageConfig) -> dict[str, Any]:
    return {"config": config, "flow": asdict(FlowSettings())}
