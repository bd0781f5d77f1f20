"""What training takes from a manifest, and which manifests it does not take."""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from src.data.datamodule import VideoDataModule, VideoTest
from src.data.image_folders import FolderTree
from src.data.library import FlowFolders
from src.data.splits import Split, Video
from src.data.transforms import CornerJitterCrop
from src.data.verification.lists import key_of
from src.data.verification.manifest import Manifest
from src.data.verification.problems import PROBLEMS
from src.data.verification.verify import verify
from src.errors import UserError
from src.experiment.config import config_diff, stage_config
from src.flow.settings import FlowSettings
from tests.conftest import compose_config
from tests.data.made_up import FRAMES, SMALL, MadeUp, fill, image, small_clip
from tests.helpers import frames_of

# The lists' case differs from the files', as in UCF101.
NAMES = [f"v_HandstandPushups_g{n:02}_c01[HD]#(&;!" for n in range(6)]


def read(root: Path, split: int = 1) -> Split:
    """Four videos to train on, two to test on."""
    if split > 1:
        raise UserError("one split only")
    folder = root / "videos" / "HandstandPushups"
    videos = [Video(name, folder / f"{name}.avi", 0) for name in NAMES]
    return Split(("HandstandPushups",), tuple(videos[:4]), tuple(videos[4:]))


@pytest.fixture
def tree(tmp_path: Path) -> MadeUp:
    (tmp_path / "parts").mkdir()
    tree = MadeUp(tmp_path, small_clip(tmp_path / "parts"), FRAMES, SMALL)
    listed = read(tmp_path)
    fill(tree, (*listed.train, *listed.test))
    fill(tree, (*listed.train, *listed.test), in_folders=True)
    return tree


def check(tree: MadeUp, **changes: Any) -> Manifest:
    """Verify, and what is then in the file."""
    arguments: dict[str, Any] = {
        "rgb": "videos",
        "flow": str(tree.flow),
        "stack": 4,
        "manifest": str(tree.root / "manifest.csv"),
        "workers": 1,
    }
    verify(partial(read, tree.root), **arguments | changes)
    manifest = Manifest.load(tree.root / "manifest.csv")
    assert manifest
    return manifest


def datamodule(tree: MadeUp, **changes: Any) -> VideoDataModule:
    arguments: dict[str, Any] = {
        "dataset": lambda: read(tree.root),
        "rgb": "videos",
        "flow": str(tree.flow),
        "split": 1,
        "num_classes": 1,
        "modalities": ["rgb", "flow"],
        "frames": 3,
        "stack": 4,
        "short_side": 32,
        "crop": CornerJitterCrop(24),
        "crop_size": 24,
        "mirror": True,
        "test": VideoTest(5, 1),
        "batch_size": 2,
        "loader": {"num_workers": 0},
        "seed": 7,
        "manifest": str(tree.root / "manifest.csv"),
    }
    module = VideoDataModule(**arguments | changes)
    module.setup()
    return module


def names(videos: Sequence[Video]) -> list[str]:
    return [video.name for video in videos]


class TestFile:
    def test_rows_tell_what_is_there(self, tree: MadeUp) -> None:
        manifest = check(tree)
        assert len(manifest.rows) == 6
        row = manifest.rows[f"HandstandPushups/{NAMES[4]}.avi"]
        assert (row.name, row.label, row.splits) == (NAMES[4], "HandstandPushups", "1:test")
        assert (row.frames, row.fields, row.height, row.width) == (14, 13, 48, 64)
        assert (row.flow_height, row.flow_width, row.fps, row.decoder) == (48, 64, 25.0, "pyav")
        assert row.rgb == f"{NAMES[4].replace('stand', 'Stand')}.avi"
        assert row.u == f"u/{NAMES[4]}/frame[000001-000013].jpg"
        assert row.problems == ""

    def test_places_are_kept_whatever_the_working_directory(
        self, tree: MadeUp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tree.root)
        check(tree, flow="tvl1_flow")
        known = Manifest.fitting(
            "manifest.csv", {"rgb": "videos", "flow": str(tree.flow)}, read(tree.root).train
        )
        assert known

    def test_codes_are_those_that_are_explained(self) -> None:
        assert all(code.startswith(("rgb_", "flow_")) for code in PROBLEMS if PROBLEMS[code].fatal)


class TestTraining:
    @pytest.mark.parametrize("rgb", ["videos", "jpegs"])
    def test_nothing_is_listed_and_the_same_is_read(
        self, rgb: str, tree: MadeUp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = rgb if rgb == "videos" else str(tree.jpegs)
        check(tree, rgb=place)
        expected = datamodule(tree, rgb=place, manifest=None)
        monkeypatch.setattr(FolderTree, "scan", lambda *_: pytest.fail("folders were listed"))
        module = datamodule(tree, rgb=place)
        assert names(module.videos.train) == NAMES[:4]
        assert names(module.videos.test) == NAMES[4:]
        assert module.videos == expected.videos
        assert module.rgb
        assert expected.rgb
        for video in module.videos.test:
            ours, theirs = module.rgb.open(video), expected.rgb.open(video)
            assert (frames_of(ours, [0, 13]) == frames_of(theirs, [0, 13])).all()
        (batch, other) = (
            next(iter(module.train_dataloader())),
            next(iter(expected.train_dataloader())),
        )
        assert (batch["flow"] == other["flow"]).all()

    def test_broken_is_as_missing(self, tree: MadeUp) -> None:
        broken = image(tree.flow / "u" / NAMES[1], -1)
        tree.replace(broken, b"")
        check(tree)
        with pytest.raises(
            UserError,
            match=r"1 of 4 listed videos are missing or broken .*tvl1_flow.* the first is .*g01.*"
            r"files of flow without content according to .*manifest.csv.*data.videos.missing=skip",
        ):
            datamodule(tree)
        assert names(datamodule(tree, missing="skip").videos.train) == [NAMES[0], *NAMES[2:4]]
        # A network that sees frames alone does not mind, and without a manifest nobody knows.
        assert names(datamodule(tree, modalities=["rgb"]).videos.train) == NAMES[:4]
        assert names(datamodule(tree, manifest=None).videos.train) == NAMES[:4]

    def test_flow_on_the_fly_asks_for_frames_alone(self, tree: MadeUp) -> None:
        (
            tree.root / "videos" / "HandstandPushups" / f"{NAMES[4]}.avi".replace("sta", "Sta")
        ).unlink()
        shutil.rmtree(tree.flow)
        check(tree)
        module = datamodule(
            tree,
            flow="on_the_fly",
            flow_settings=FlowSettings("dis", short_side=32),
            missing="skip",
            modalities=["flow"],
        )
        assert names(module.videos.train + module.videos.test) == [*NAMES[:4], NAMES[5]]
        batch = next(iter(module.train_dataloader()))
        assert batch["flow"].shape[0] == 2

    def test_notes_stop_nothing(self, tree: MadeUp) -> None:
        for component in "uv":
            image(tree.flow / component / NAMES[0], -1).unlink()
        manifest = check(tree)
        assert manifest.rows[f"HandstandPushups/{NAMES[0]}.avi"].problems == "flow_uneven"
        assert len(datamodule(tree).videos.train) == 4

    def test_it_makes_no_other_config(self) -> None:
        one, other = (
            stage_config(compose_config("train", f"data.videos.manifest={file}"), "joint")
            for file in ("a.csv", "null")
        )
        assert one != other
        assert config_diff(one, other) is None


class TestUnfit:
    """It is ignored with one line; found by its ignoring that flow is broken."""

    @pytest.fixture
    def broken(self, tree: MadeUp) -> MadeUp:
        tree.replace(image(tree.flow / "u" / NAMES[1], -1), b"")
        check(tree)
        with pytest.raises(UserError):
            datamodule(tree)
        return tree

    def ignored(self, tree: MadeUp, caplog: pytest.LogCaptureFixture, **changes: Any) -> str:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert len(datamodule(tree, **changes).videos.train) == 4
        lines = [
            r.getMessage() for r in caplog.records if r.name == "src.data.verification.manifest"
        ]
        assert len(lines) <= 1
        return "".join(lines)

    def test_absent(self, broken: MadeUp, caplog: pytest.LogCaptureFixture) -> None:
        assert self.ignored(broken, caplog, manifest=str(broken.root / "none.csv")) == ""

    def test_of_other_places(self, broken: MadeUp, caplog: pytest.LogCaptureFixture) -> None:
        other = shutil.copytree(broken.flow, broken.root / "other")
        line = self.ignored(broken, caplog, flow=str(other))
        assert f"flow in {broken.flow}, not {other}: python -m src.verify_data" in line
        assert "rgb in" in self.ignored(broken, caplog, rgb=str(broken.jpegs))

    def test_of_no_flow(self, broken: MadeUp, caplog: pytest.LogCaptureFixture) -> None:
        check(broken, flow=None)
        assert "flow in None, not" in self.ignored(broken, caplog)

    def test_of_other_lists(self, broken: MadeUp, caplog: pytest.LogCaptureFixture) -> None:
        file = broken.root / "manifest.csv"
        lines = file.read_text().splitlines(keepends=True)
        head = json.loads(file.with_suffix(".json").read_text())
        file.write_text("".join(lines[:-1]))
        assert "5 of 6 rows" in self.ignored(broken, caplog)
        file.with_suffix(".json").write_text(json.dumps(head | {"rows": 5}))
        assert "other lists" in self.ignored(broken, caplog)

    @pytest.mark.parametrize("damage", ["version", "no head", "no column", "no number"])
    def test_of_another_format(
        self, damage: str, broken: MadeUp, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = broken.root / "manifest.csv"
        head = file.with_suffix(".json")
        if damage == "version":
            head.write_text(json.dumps(json.loads(head.read_text()) | {"version": 0}))
        elif damage == "no head":
            head.unlink()
        elif damage == "no column":
            file.write_text(file.read_text().replace("fields", "something", 1))
        else:
            file.write_text(file.read_text().replace(",14,", ",many,", 1))
        assert "of another format" in self.ignored(broken, caplog)


def test_key_is_that_of_the_lists() -> None:
    assert key_of(Video("a", Path("/data/videos/wave/a.avi"), 0)) == "wave/a.avi"


@pytest.mark.parametrize(
    "where", ["../secret/frame[1-13].jpg", "{root}/secret/frame[1-13].jpg", "u/../../x/f[1-13].jpg"]
)
def test_a_manifest_leads_nowhere_else(where: str, tree: MadeUp) -> None:
    """A row that points out of the folder of images is not believed: the folder is listed."""
    manifest = check(tree)
    key, row = next(iter(manifest.rows.items()))
    rows = {**manifest.rows, key: replace(row, u=where.format(root=tree.root))}
    replace(manifest, rows=rows).save()
    flow = datamodule(tree).flow
    assert isinstance(flow, FlowFolders)
    images = flow.tree.images("u", row.name)
    assert images
    assert images.where(0) == str(tree.flow / "u" / row.name / "frame000001.jpg")


def test_a_manifest_of_endless_fields_is_not_used(
    tree: MadeUp, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = check(tree)
    with manifest.file.open("a") as file:
        file.write("x" * 200_000)
    assert Manifest.load(manifest.file) is None
    assert "field larger than field limit" in caplog.text
