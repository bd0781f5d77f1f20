"""What training takes from a manifest, and which manifests it does not take."""

import json
import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from src.data.datamodule import VideoDataModule, VideoReading
from src.data.verification.manifest import PROBLEMS, Manifest
from src.data.verification.verify import verify
from src.data.videos import Split, Video, key_of
from src.experiment.config import config_diff, stage_config
from src.flow.settings import FlowSettings
from src.utils.errors import UserError
from tests.builders import small_datamodule
from tests.conftest import compose_config
from tests.data.verification.damaged import FRAMES, SMALL, MadeUp, fill, image, small_clip

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
        "manifest": str(tree.root / "manifest.jsonl"),
        "workers": 1,
    }
    verify(partial(read, tree.root), **arguments | changes)
    manifest = Manifest.load(tree.root / "manifest.jsonl")
    assert manifest
    return manifest


def reading(tree: MadeUp, name: str = "manifest", **changes: Any) -> VideoReading:
    return VideoReading(manifest=str(tree.root / f"{name}.jsonl"), **changes)


def datamodule(tree: MadeUp, **changes: Any) -> VideoDataModule:
    options = {"flow": str(tree.flow), "num_classes": 1, "videos": reading(tree)}
    return small_datamodule(lambda: read(tree.root), **options | changes)


def names(videos: Sequence[Video]) -> list[str]:
    return [video.name for video in videos]


class TestFile:
    def test_lines_tell_what_is_there(self, tree: MadeUp) -> None:
        manifest = check(tree)
        assert len(manifest.checks) == 12
        key = f"HandstandPushups/{NAMES[4]}.avi"
        frames, flow = manifest.checks["rgb", key], manifest.checks["flow", key]
        assert (frames.count, frames.size, frames.fps) == (14, (48, 64), 25.0)
        assert (flow.count, flow.size, flow.decoder) == (13, (48, 64), "jpeg")
        assert frames.decoder == "pyav"
        assert not {*frames.problems, *frames.others, *flow.problems, *flow.others}

    def test_places_are_kept_whatever_the_working_directory(
        self, tree: MadeUp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tree.root)
        check(tree, flow="tvl1_flow")
        known = Manifest.fitting(
            "manifest.jsonl", {"rgb": "videos", "flow": str(tree.flow)}, read(tree.root).train
        )
        assert known

    def test_codes_are_those_that_are_explained(self) -> None:
        assert all(code.startswith(("rgb_", "flow_")) for code in PROBLEMS if PROBLEMS[code].fatal)


class TestTraining:
    def test_sound_videos_are_those_without_a_manifest(self, tree: MadeUp) -> None:
        check(tree)
        module = datamodule(tree)
        assert names(module.videos.train) == NAMES[:4]
        assert names(module.videos.test) == NAMES[4:]
        assert module.videos == datamodule(tree, videos=VideoReading()).videos

    def test_broken_is_as_missing(self, tree: MadeUp) -> None:
        broken = image(tree.flow / "u" / NAMES[1], -1)
        tree.replace(broken, b"")
        check(tree)
        with pytest.raises(
            UserError,
            match=r"1 of 4 listed videos are missing or broken .*tvl1_flow.* the first is .*g01.*"
            r"files of flow without content according to .*manifest.jsonl.*missing=skip",
        ):
            datamodule(tree)
        skipping = datamodule(tree, videos=reading(tree, missing="skip"))
        assert names(skipping.videos.train) == [NAMES[0], *NAMES[2:4]]
        assert list(skipping.errors.missing["train"]) == [NAMES[1]]
        # A network that sees frames alone does not mind, and without a manifest nobody knows.
        assert names(datamodule(tree, modalities=["rgb"]).videos.train) == NAMES[:4]
        assert names(datamodule(tree, videos=VideoReading()).videos.train) == NAMES[:4]

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
            videos=reading(tree, missing="skip"),
            modalities=["flow"],
        )
        assert names([*module.videos.train, *module.videos.test]) == [*NAMES[:4], NAMES[5]]
        batch = next(iter(module.train_dataloader()))
        assert batch["flow"].shape[0] == 2

    def test_notes_stop_nothing(self, tree: MadeUp) -> None:
        for component in "uv":
            image(tree.flow / component / NAMES[0], -1).unlink()
        manifest = check(tree)
        noted = manifest.checks["flow", f"HandstandPushups/{NAMES[0]}.avi"]
        assert (list(noted.others), noted.fatal) == (["flow_uneven"], [])
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
        assert self.ignored(broken, caplog, videos=reading(broken, "none")) == ""

    def test_of_other_places(self, broken: MadeUp, caplog: pytest.LogCaptureFixture) -> None:
        other = shutil.copytree(broken.flow, broken.root / "other")
        line = self.ignored(broken, caplog, flow=str(other))
        assert f"flow in {broken.flow}, not {other}: python -m src.verify_data" in line
        assert "rgb in" in self.ignored(broken, caplog, rgb=str(broken.jpegs))

    def test_of_no_flow(self, broken: MadeUp, caplog: pytest.LogCaptureFixture) -> None:
        check(broken, flow=None)
        assert "it is without flow: python -m src.verify_data" in self.ignored(broken, caplog)

    def test_of_other_lists(self, broken: MadeUp, caplog: pytest.LogCaptureFixture) -> None:
        file = broken.root / "manifest.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[:-1]))
        assert "for other lists" in self.ignored(broken, caplog)

    @pytest.mark.slow
    def test_of_a_run_that_was_killed(
        self, broken: MadeUp, caplog: pytest.LogCaptureFixture
    ) -> None:
        manifest = Manifest.load(broken.root / "manifest.jsonl")
        assert manifest
        manifest.complete = False
        manifest.save()
        assert "is not complete" in self.ignored(broken, caplog)

    @pytest.mark.parametrize("damage", ["version", "no head", "no field", "no number"])
    def test_of_another_format(
        self, damage: str, broken: MadeUp, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = broken.root / "manifest.jsonl"
        head, *lines = file.read_text().splitlines()
        if damage == "version":
            head = json.dumps(json.loads(head) | {"version": 0})
        elif damage == "no head":
            head = ""
        elif damage == "no field":
            lines[0] = lines[0].replace('"fps"', '"something"')
        else:
            lines[0] = lines[0].replace('"size": [48, 64]', '"size": 48')
        file.write_text("\n".join([head, *lines]))
        assert "is not used" in self.ignored(broken, caplog)


def test_key_is_that_of_the_lists() -> None:
    assert key_of(Video("a", Path("/data/videos/wave/a.avi"), 0)) == "wave/a.avi"
