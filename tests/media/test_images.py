"""JPEG images in folders and archives: layouts, names, numbers, indices and errors."""

import json
import logging
import multiprocessing
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from src.media import image_archives, image_folders, image_index, skipped
from src.media.find_videos import videos_below
from src.media.image_archives import ArchiveImages
from src.media.images import FlowImages, FrameImages, ImageIndex, is_archive, open_images
from src.media.sources import Uint8
from src.utils.errors import UserError
from tests.builders import fields_of, frames_of

VIDEOS = {"run #1 (a)": 4, "Jump&;[!": 3, "v_HandStandPushups_g01_c01": 5}
Layout = Callable[[str, str, int], str]  # component, video, number from 1: the image's path


def grey(component: str, video: str, number: int) -> int:
    """What an image shows: its own level of grey."""
    return 10 * number + 60 * ("rgb", "u", "v").index(component) + 3 * list(VIDEOS).index(video)


def jpeg(level: int, size: tuple[int, int] = (16, 24)) -> bytes:
    image = np.full((*size, 3), level, np.uint8)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()


def released(component: str, video: str, number: int) -> str:
    folder = "jpegs_256" if component == "rgb" else f"tvl1_flow/{component}"
    return f"{folder}/{video}/frame{number:06d}.jpg"


def bare(component: str, video: str, number: int) -> str:
    folder = "" if component == "rgb" else f"{component}/"
    return f"{folder}{video}/frame{number:06d}.jpg"


def by_class(component: str, video: str, number: int) -> str:
    folder = "jpegs" if component == "rgb" else f"flow/{component}"
    return f"{folder}/Some Class/{video}/frame{number:06d}.JPG"


def denseflow(component: str, video: str, number: int) -> str:
    prefix = {"rgb": "img_", "u": "flow_x_", "v": "flow_y_"}[component]
    return f"rawframes/Class/{video}/{prefix}{number:05d}.jpg"


def short(component: str, video: str, number: int) -> str:
    prefix = {"rgb": "", "u": "x_", "v": "y_"}[component]
    return f"{video}/{prefix}{number}.jpeg"


def all_images(layout: Layout, videos: Iterable[str] = VIDEOS) -> dict[str, bytes]:
    """RGB images of all videos, and one u and v image fewer."""
    return {
        layout(component, video, number): jpeg(grey(component, video, number))
        for video in videos
        for component in ("rgb", "u", "v")
        for number in range(1, VIDEOS[video] + (component == "rgb"))
    }


def unpack(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def pack(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def in_shards(root: Path, layout: Layout) -> Path:
    for number, video in enumerate(VIDEOS):
        pack(root / f"shard{number}.zip", all_images(layout, [video]))
    content = (root / "shard2.zip").read_bytes()
    (root / "shard2.zip").unlink()
    (root / "shard2.zip.001").write_bytes(content[:1000])
    (root / "shard2.zip.002").write_bytes(content[1000:])
    return root


@pytest.fixture(params=["folders", "zip", "top folder", "shards"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Layout], Path]:
    """Write all images in a layout, as files or in archives."""

    def make(layout: Layout) -> Path:
        files = all_images(layout)
        if request.param == "folders":
            return unpack(tmp_path / "images", files)
        if request.param == "shards":
            return in_shards(tmp_path / "images", layout)
        top = "top/" if request.param == "top folder" else ""
        return pack(tmp_path / "a.ZIP", {f"{top}{name}": data for name, data in files.items()})

    return make


@pytest.mark.parametrize("layout", [released, bare, by_class, denseflow, short])
def test_layouts(layout: Layout, make: Callable[[Layout], Path]) -> None:
    tree = open_images(make(layout))
    for component, fewer in (("rgb", 0), ("u", 1), ("v", 1)):
        assert tree.videos(component) == {v: n - fewer for v, n in VIDEOS.items()}
    for video, count in VIDEOS.items():
        for name in (video, video.lower(), video.upper()):
            frames = frames_of(FrameImages(tree, name), [*range(count), 0, 1])
            assert frames.shape == (count + 2, 16, 24, 3)
            greys = [grey("rgb", video, number) for number in [*range(1, count + 1), 1, 2]]
            assert (frames == np.array(greys)[:, None, None, None]).all()
            flow = FlowImages(tree, name)
            fields = fields_of(flow, [count - 2, 0])
            for which, number in enumerate((count - 1, 1)):
                expected = [grey(component, video, number) for component in "uv"]
                assert (fields[which] == expected).all()
    assert tree.images("rgb", "other") is None


def test_archive_equals_its_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = {name: rng.bytes(int(rng.integers(1, 5000))) for name in all_images(released)}
    trees = [
        open_images(unpack(tmp_path / "a", files)),
        open_images(pack(tmp_path / "a.zip", files)),
    ]
    for component in ("rgb", "u", "v"):
        for video in VIDEOS:
            one, other = (tree.images(component, video) for tree in trees)
            assert one is not None
            assert other is not None
            assert len(one) == len(other)
            for index in range(len(one)):
                content = files[released(component, video, index + 1)]
                assert one.read(index) == other.read(index) == content


@pytest.mark.parametrize("packed", [False, True])
class TestNumbers:
    def tree(self, names: Iterable[str], packed: bool, tmp_path: Path) -> ImageIndex:
        files = {name: name.encode() for name in names}
        path = pack(tmp_path / "a.zip", files) if packed else unpack(tmp_path / "a", files)
        return open_images(path)

    def test_order_is_that_of_numbers(self, packed: bool, tmp_path: Path) -> None:
        names = [f"v/frame{number}.jpg" for number in (10, 2, 9, 1, 3, 8, 4, 7, 5, 6)]
        images = self.tree(names, packed, tmp_path).images("rgb", "v")
        assert images is not None
        assert [images.read(i) for i in range(10)] == [b"v/frame%d.jpg" % n for n in range(1, 11)]

    @pytest.mark.parametrize(("numbers", "count"), [("0123", 4), ("12456", 2), ("5", 1), ("13", 1)])
    def test_ends_at_a_gap(self, numbers: str, count: int, packed: bool, tmp_path: Path) -> None:
        tree = self.tree([f"v/frame{number}.jpg" for number in numbers], packed, tmp_path)
        assert tree.videos("rgb") == {"v": count}
        images = tree.images("rgb", "v")
        assert images is not None
        assert len(images) == count
        assert images.read(count - 1) == f"v/frame{numbers[count - 1]}.jpg".encode()

    def test_other_files_are_left_alone(self, packed: bool, tmp_path: Path) -> None:
        names = ["v/1.jpg", "v/._1.jpg", "v/._frame2.jpg", "v/thumbs.db", "v/cover.jpg", "v/2.bmp"]
        names += ["__MACOSX/v/._1.jpg", ".hidden/w/1.jpg" if not packed else "list.txt"]
        assert self.tree(names, packed, tmp_path).videos("rgb") == {"v": 1}

    def test_other_files_are_counted_and_reported_once(
        self, packed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        names = ["v/1.jpg", "v/._1.jpg", "v/thumbs.db", "v/cover.jpg", "v/2.bmp", "w/3.BMP", "list"]
        names += ["flow.json", "failed-1-of-2.csv", "sources/v.txt"]  # of extract_flow itself
        with caplog.at_level("INFO"):
            for _ in range(2):
                self.tree(names, packed, tmp_path)
        (message,) = caplog.messages
        assert message == (
            f"{tmp_path / ('a.zip' if packed else 'a')}: 5 skipped that are no numbered images: "
            ".bmp (2), .db (1), .jpg (1), without ending (1)"
        )

    @pytest.mark.parametrize("numbers", ["0123", "5", "98", "7 8 9 10 11"])
    def test_numbers_in_a_row_are_all_read(
        self, numbers: str, packed: bool, tmp_path: Path
    ) -> None:
        listed = numbers.split() if " " in numbers else list(numbers)
        tree = self.tree([f"v/frame{number}.jpg" for number in listed], packed, tmp_path)
        assert FrameImages(tree, "v").num_frames == len(listed)

    @pytest.mark.parametrize(
        "names", [["0", "5", "10"], ["1", "2", "4"], ["1", "2", "002", "3"], ["01", "02", "2"]]
    )
    def test_a_gap_or_a_double_is_an_error_that_names_the_image(
        self, names: list[str], packed: bool, tmp_path: Path
    ) -> None:
        tree = self.tree([f"v/frame{name}.jpg" for name in names], packed, tmp_path)
        with pytest.raises(UserError, match=r"after .*v.* a number is missing, there twice or of"):
            FrameImages(tree, "v")

    def test_a_gap_in_flow(self, packed: bool, tmp_path: Path) -> None:
        names = [f"{part}/v/frame{number}.jpg" for part in "uv" for number in (1, 2, 4)]
        with pytest.raises(UserError, match="a number is missing"):
            FlowImages(self.tree(names, packed, tmp_path), "v")

    @pytest.mark.parametrize("classes", [("u", "v"), ("v", "run"), ("x", "flow_y")])
    def test_a_class_may_be_called_as_flow_is(
        self, classes: tuple[str, str], packed: bool, tmp_path: Path
    ) -> None:
        names = [f"{name}/clip{n}/{i}.jpg" for n, name in enumerate(classes) for i in (1, 2)]
        tree = self.tree(names, packed, tmp_path)
        assert tree.videos("rgb") == {"clip0": 2, "clip1": 2}
        assert FrameImages(tree, "clip1").num_frames == 2

    @pytest.mark.parametrize(
        "layout", ["x/{v}/{n}", "flow_x/{v}/img_{n}", "a/flow_x/{v}/{n}", "a/{v}/flow_x/{n}"]
    )
    def test_flow_in_folders_of_other_names(
        self, layout: str, packed: bool, tmp_path: Path
    ) -> None:
        files = [layout.format(v=v, n=n) for v in ("one", "two") for n in (1, 2, 3)]
        names = [f"{name.replace('x/', part + '/')}.jpg" for name in files for part in "xy"]
        tree = self.tree(
            [*names, *(f"{v}/{n}.jpg" for v in ("one", "two") for n in (1, 2))], packed, tmp_path
        )
        assert tree.videos("u") == tree.videos("v") == {"one": 3, "two": 3}
        assert tree.videos("rgb") == {"one": 2, "two": 2}

    @pytest.mark.parametrize("layout", ["a/{v}/rgb/{n}", "{v}.mp4/{n}", "a/{v}.AVI/rgb/{n}"])
    def test_folders_in_and_called_as_videos(
        self, layout: str, packed: bool, tmp_path: Path
    ) -> None:
        names = [f"{layout.format(v=v, n=n)}.jpg" for v in ("one.x", "Two") for n in (1, 2, 3)]
        tree = self.tree(names, packed, tmp_path)
        assert tree.videos("rgb") == {"one.x": 3, "Two": 3}
        for name in ("two", "Two.mp4", "one.x"):
            assert FrameImages(tree, name).num_frames == 3

    def test_names_are_those_of_the_component(self, packed: bool, tmp_path: Path) -> None:
        tree = self.tree(["Clip/1.jpg", "u/clip/1.jpg", "v/clip/1.jpg"], packed, tmp_path)
        assert tree.videos("rgb") == {"Clip": 1}
        assert tree.videos("u") == tree.videos("v") == {"clip": 1}

    def test_numbers_beyond_64_bits(self, packed: bool, tmp_path: Path) -> None:
        name = f"v/{'9' * 60}.jpg"
        assert self.tree([name], packed, tmp_path).videos("rgb") == {"v": 1}

    def test_video_that_is_there_twice(self, packed: bool, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"rgb images of video [vV] twice.*(one of them)"):
            self.tree(["a/v/1.jpg", "b/V/1.jpg"], packed, tmp_path)

    def test_no_images_at_all(self, packed: bool, tmp_path: Path) -> None:
        if packed:
            with pytest.raises(UserError, match=r"a\.zip holds no numbered images"):
                self.tree(["readme.txt"], packed, tmp_path)
        else:
            assert self.tree(["readme.txt"], packed, tmp_path).videos("rgb") == {}


def test_folder_of_frames_of_one_video(tmp_path: Path) -> None:
    unpack(tmp_path / "my video", {"1.jpg": jpeg(1), "2.jpg": jpeg(2)})
    assert open_images(tmp_path / "my video").videos("rgb") == {"my video": 2}


@pytest.mark.parametrize("ending", [".png", ".webp", ".PNG"])
def test_images_of_other_formats(ending: str, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if ending == ".webp" else []
    data = cv2.imencode(ending, image[..., ::-1], lossless)[1].tobytes()
    tree = open_images(unpack(tmp_path, {f"v/frame{n:03d}{ending}": data for n in (1, 2)}))
    np.testing.assert_array_equal(frames_of(FrameImages(tree, "v"), [0, 1]), [image, image])


@pytest.mark.parametrize("shards", [("12", "34"), ("123", "123")])
def test_a_video_in_two_archives_is_refused(shards: tuple[str, str], tmp_path: Path) -> None:
    for name, numbers in zip("ab", shards, strict=True):
        pack(tmp_path / f"{name}.zip", {f"v/{number}.jpg": jpeg(1) for number in numbers})
    with pytest.raises(UserError, match=r"video v twice, .*a\.zip.* and .*b\.zip"):
        open_images(tmp_path)


@pytest.mark.parametrize("ending", [".zip", ".ZIP", ".zip.001"])
def test_an_archive_for_each_video(ending: str, tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two.x")):
        pack(tmp_path / f"{name}{ending}", {f"img_{n}.jpg": jpeg(10 * number) for n in (1, 2)})
    tree = open_images(tmp_path)
    assert tree.videos("rgb") == {"one": 2, "two.x": 2}
    assert frames_of(FrameImages(tree, "two.x"), [1])[0, 0, 0, 0] == 10


def test_an_archive_of_archives_is_refused_with_what_is_in_it(tmp_path: Path) -> None:
    files = {"a.zip": b"", "b.zip": b"", "readme.txt": b""}
    told = r"no numbered images, .* but \.zip \(2\), \.txt \(1\)"
    with pytest.raises(UserError, match=told):
        open_images(pack(tmp_path / "all.zip", files))


def test_what_lies_beside_archives_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = in_shards(tmp_path / "images", bare)
    unpack(root, {"new/1.jpg": jpeg(1), ".index/1.jpg": jpeg(1), "readme.txt": b"", "a.tar": b""})
    with caplog.at_level("INFO"):
        assert open_images(root).videos("rgb") == VIDEOS
    assert caplog.messages == [
        f"{root}: 3 skipped that are no zip archives: .tar (1), .txt (1), folders (1)"
    ]


def test_volumes_and_other_archives_are_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a b.zip").write_bytes(b"PK")
    (tmp_path / "a b.z01").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"in volumes.* zip -s 0 '.*a b\.zip' --out"):
        open_images(tmp_path / "a b.zip")
    (tmp_path / "frames.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"frames\.tar is neither a folder .*: unpack it"):
        open_images(tmp_path / "frames.tar")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"folder of images .* does not exist"):
        open_images(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "answer"),
    [("a.zip", True), ("a.ZIP.001", True), ("a.zip.01", False), ("zip", False), ("a.zip.d", False)],
)
def test_is_archive(name: str, answer: bool) -> None:
    assert is_archive(Path(name)) == answer


def age(root: Path) -> None:
    """Make folders look as if they had not changed lately."""
    for folder in [root, *root.rglob("*")]:
        os.utime(folder, (10**9, 10**9))


class TestIndex:
    @pytest.fixture
    def cache(self, tmp_path: Path) -> Path:
        return tmp_path / "index" / "below"

    @pytest.fixture
    def indexed(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What had to be read anew: archives' directories, and folders."""
        done: list[str] = []
        index, list_folder = image_archives._index, image_folders._list

        def counted_index(archive: Any) -> Any:
            done.append(archive.path.name)
            return index(archive)

        def counted_list(root: Path, folder: str, known: Any) -> Any:
            listing = list_folder(root, folder, known)
            if listing is not known:
                done.append(folder)
            return listing

        monkeypatch.setattr(image_archives, "_index", counted_index)
        monkeypatch.setattr(image_folders, "_list", counted_list)
        return done

    def test_archive_is_indexed_once(self, tmp_path: Path, cache: Path, indexed: list[str]) -> None:
        path = pack(tmp_path / "a.zip", all_images(released))
        opened = [open_images(path, cache) for _ in range(3)]
        assert indexed == ["a.zip"]
        for tree in opened:
            assert tree.videos("u") == {video: n - 1 for video, n in VIDEOS.items()}
            assert frames_of(FrameImages(tree, "RUN #1 (A)"), [2])[0, 0, 0, 0] == 30
            assert isinstance(rows_of(tree, "Jump&;[!"), np.memmap)

    def test_archive_that_changed(self, tmp_path: Path, cache: Path, indexed: list[str]) -> None:
        path = pack(tmp_path / "a.zip", all_images(released))
        open_images(path, cache)
        pack(path, all_images(bare, ["Jump&;[!"]))
        assert open_images(path, cache).videos("rgb") == {"Jump&;[!": 3}
        os.utime(path, (10**9, 10**9))
        open_images(path, cache)
        assert indexed == ["a.zip"] * 3

    @pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\x93NUMPY"])
    @pytest.mark.parametrize("ending", [".json", ".npy"])
    def test_damaged_index(
        self, ending: str, damage: bytes, tmp_path: Path, cache: Path, indexed: list[str]
    ) -> None:
        path = pack(tmp_path / "a.zip", all_images(released))
        open_images(path, cache)
        (file,) = cache.glob(f"*{ending}")
        file.write_bytes(damage)
        tree = open_images(path, cache)
        assert frames_of(FrameImages(tree, "run #1 (a)"), [2])[0, 0, 0, 0] == 30
        assert indexed == ["a.zip"] * 2

    def test_index_of_another_number_of_images(
        self, tmp_path: Path, cache: Path, indexed: list[str]
    ) -> None:
        path = pack(tmp_path / "a.zip", all_images(released))
        open_images(path, cache)
        (file,) = cache.glob("*.npy")
        np.save(file, np.load(file)[:-1])
        open_images(path, cache)
        assert indexed == ["a.zip"] * 2

    def test_folders_are_listed_once(self, tmp_path: Path, cache: Path, indexed: list[str]) -> None:
        root = unpack(tmp_path / "a", all_images(released))
        age(root)
        found = open_images(root, cache).videos("rgb")
        assert len(indexed) == 14  # the root, three with videos below, tvl1_flow, nine with images
        assert open_images(root, cache).videos("rgb") == found == VIDEOS
        assert len(indexed) == 14

    @pytest.mark.parametrize("packed", [False, True])
    def test_a_kept_index_knows_what_was_skipped(
        self,
        packed: bool,
        tmp_path: Path,
        cache: Path,
        indexed: list[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        files = {"v/1.jpg": jpeg(1), "v/x.bmp": b""}
        path = pack(tmp_path / "a.zip", files) if packed else unpack(tmp_path / "a", files)
        if not packed:
            age(path)
        open_images(path, cache)
        done = len(indexed)
        caplog.clear()
        skipped._reported.clear()  # as in another process
        with caplog.at_level("INFO"):
            open_images(path, cache)
        assert len(indexed) == done
        assert caplog.messages == [f"{path}: 1 skipped that are no numbered images: .bmp (1)"]

    def test_folder_that_changed(self, tmp_path: Path, cache: Path, indexed: list[str]) -> None:
        root = unpack(tmp_path / "a", all_images(released))
        age(root)
        open_images(root, cache)
        indexed.clear()
        (root / released("rgb", "Jump&;[!", 4)).write_bytes(b"")
        unpack(root, {"jpegs_256/new/frame1.jpg": b""})
        shutil.rmtree(root / "jpegs_256" / "run #1 (a)")
        videos = VIDEOS | {"Jump&;[!": 4, "new": 1}
        del videos["run #1 (a)"]
        assert open_images(root, cache).videos("rgb") == videos
        assert sorted(indexed) == ["jpegs_256", "jpegs_256/Jump&;[!", "jpegs_256/new"]

    def test_folder_that_changes_within_one_tick_of_the_clock(
        self, tmp_path: Path, cache: Path
    ) -> None:
        root = unpack(tmp_path / "a", {"v/1.jpg": b""})
        before = (root / "v").stat()
        open_images(root, cache)
        (root / "v" / "2.jpg").touch()
        os.utime(root / "v", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert open_images(root, cache).videos("rgb") == {"v": 2}

    def test_places_whose_names_are_alike(self, tmp_path: Path, cache: Path) -> None:
        paths = [tmp_path / folder / "a.zip" for folder in ("a-b", "a_b")]
        for path, video in zip(paths, VIDEOS, strict=False):
            pack(path, all_images(released, [video]))
        trees = [open_images(path, cache) for path in paths]
        copies = [pickle.loads(pickle.dumps(tree)) for tree in trees]
        for tree, video in zip([*trees, *copies], list(VIDEOS)[:2] * 2, strict=True):
            frame = frames_of(FrameImages(tree, video), [1])[0, 0, 0, 0]
            assert frame == grey("rgb", video, 2)
        assert len(list(cache.glob("*.npy"))) == 2

    def test_no_right_to_write(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(image_index, "_warned", set())
        (tmp_path / "file").touch()  # where a folder would have to be; root may write anywhere
        root = in_shards(tmp_path / "images", released)
        for _ in range(2):
            tree = open_images(root, tmp_path / "file")
            assert tree.videos("rgb") == VIDEOS
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "index of images cannot be kept" in record.message

    def test_worker_shares_the_index(self, tmp_path: Path, cache: Path) -> None:
        files = {f"v/{number}.jpg": b"x" for number in range(5000)}
        tree = open_images(pack(tmp_path / "a.zip", files), cache)
        content = pickle.dumps(tree)
        assert len(content) < 2000  # the index is not in it
        assert isinstance(rows_of(pickle.loads(content), "v"), np.memmap)

    def test_worker_without_an_index(self, tmp_path: Path, cache: Path) -> None:
        tree = open_images(pack(tmp_path / "a.zip", all_images(released)), cache)
        content = pickle.dumps(tree)
        shutil.rmtree(cache)
        other: ImageIndex = pickle.loads(content)
        assert frames_of(FrameImages(other, "run #1 (a)"), [2])[0, 0, 0, 0] == 30

    @pytest.mark.slow
    @pytest.mark.parametrize("kept", [False, True])
    def test_worker_not_forked_from_here(self, kept: bool, tmp_path: Path, cache: Path) -> None:
        tree = open_images(in_shards(tmp_path / "a", released), cache if kept else None)
        with multiprocessing.get_context("forkserver").Pool(1) as pool:
            greys = pool.apply(first_greys, (tree,))
        assert greys == [grey("rgb", video, 1) for video in VIDEOS]


def rows_of(tree: ImageIndex, video: str) -> Any:
    images = tree.images("rgb", video)
    assert isinstance(images, ArchiveImages)
    return images.index.rows


def first_greys(tree: ImageIndex) -> list[int]:
    return [int(frames_of(FrameImages(tree, video), [0])[0, 0, 0, 0]) for video in VIDEOS]


@pytest.mark.parametrize("packed", [False, True])
class TestSources:
    def open(self, changes: dict[str, bytes | None], packed: bool, tmp_path: Path) -> ImageIndex:
        """All images, but for some that are others or missing."""
        files = all_images(bare) | changes
        some = {name: content for name, content in files.items() if content is not None}
        path = pack(tmp_path / "a.zip", some) if packed else unpack(tmp_path / "a", some)
        return open_images(path)

    def test_no_frames(self, packed: bool, tmp_path: Path) -> None:
        tree = self.open({}, packed, tmp_path)
        with pytest.raises(UserError, match=r"no frames of video absent in .*a"):
            FrameImages(tree, "absent")

    def test_no_flow(self, packed: bool, tmp_path: Path) -> None:
        tree = self.open({}, packed, tmp_path)
        with pytest.raises(UserError, match=r"video absent: 0 u and 0 v.*src\.extract_flow"):
            FlowImages(tree, "absent")

    def test_u_and_v_of_different_number(self, packed: bool, tmp_path: Path) -> None:
        tree = self.open({bare("v", "Jump&;[!", 2): None}, packed, tmp_path)
        with pytest.raises(UserError, match=r"video Jump&;\[!: 2 u and 1 v"):
            FlowImages(tree, "Jump&;[!")

    def test_u_and_v_of_different_size(self, packed: bool, tmp_path: Path) -> None:
        tree = self.open({bare("v", "Jump&;[!", 2): jpeg(9, (16, 16))}, packed, tmp_path)
        flow = FlowImages(tree, "Jump&;[!")
        assert fields_of(flow, [0]).shape == (1, 16, 24, 2)
        with pytest.raises(UserError, match=r"differs in size from its u: extract"):
            fields_of(flow, [1])

    @pytest.mark.parametrize("content", [b"", b"no JPEG", jpeg(1)[:40]])
    @pytest.mark.parametrize("component", ["rgb", "u", "v"])
    def test_broken_image(
        self, component: str, content: bytes, packed: bool, tmp_path: Path
    ) -> None:
        tree = self.open({bare(component, "Jump&;[!", 2): content}, packed, tmp_path)
        where = "image 2 of Jump" if packed else r"Jump&;\[!/frame000002\.jpg"

        def read(index: int) -> Uint8:
            if component == "rgb":
                return frames_of(FrameImages(tree, "Jump&;[!"), [index])
            return fields_of(FlowImages(tree, "Jump&;[!"), [index])

        assert read(0).any()
        with pytest.raises(UserError, match=rf"{where}.* is broken: extract or download"):
            read(1)


def test_image_that_vanished(tmp_path: Path) -> None:
    tree = open_images(unpack(tmp_path / "a", all_images(bare)))
    (tmp_path / "a" / bare("rgb", "Jump&;[!", 2)).unlink()
    with pytest.raises(UserError, match=r"frame000002\.jpg cannot be read \(No such file"):
        frames_of(FrameImages(tree, "Jump&;[!"), [1])


class TestHostile:
    def test_members_lead_nowhere(self, tmp_path: Path) -> None:
        """Names and links in an archive are text: what they point to is never opened."""
        secret = unpack(tmp_path, {"secret/frame000001.jpg": jpeg(200)}) / "secret"
        archive = tmp_path / "in" / "a.zip"
        pack(
            archive,
            {
                "../../secret/frame000001.jpg": jpeg(10),
                f"{tmp_path}/up/frame000001.jpg": jpeg(20),
                "..\\..\\secret\\frame000001.jpg": jpeg(30),
            },
        )
        with zipfile.ZipFile(archive, "a") as file:
            link = zipfile.ZipInfo("link/frame000001.jpg")
            link.create_system, link.external_attr = 3, 0o120777 << 16
            file.writestr(link, str(secret / "frame000001.jpg"))
        before = sorted(tmp_path.rglob("*"))
        tree = open_images(archive)
        assert set(tree.videos("rgb")) == {"secret", "up", "link"}
        assert abs(int(frames_of(FrameImages(tree, "secret"), [0]).mean()) - 10) < 3
        with pytest.raises(UserError, match=r"image 1 of link is broken"):
            frames_of(FrameImages(tree, "link"), [0])
        assert sorted(tmp_path.rglob("*")) == before

    def test_an_index_with_code_in_it_is_made_anew(self, tmp_path: Path) -> None:
        archive, marker = pack(tmp_path / "a.zip", all_images(bare)), tmp_path / "harm"
        open_images(archive, tmp_path / "index")
        (index,) = (tmp_path / "index").glob("*.npy")
        with index.open("wb") as file:
            np.save(file, np.array([Trap(marker)], dtype=object), allow_pickle=True)
        assert open_images(archive, tmp_path / "index").videos("rgb") == VIDEOS
        assert not marker.exists()
        np.save(index, np.zeros(len(all_images(bare))))  # as many rows, of something else
        assert frames_of(
            FrameImages(open_images(archive, tmp_path / "index"), "Jump&;[!"), [0]
        ).any()

    @pytest.mark.parametrize(
        "listing",
        [
            5,
            {},
            {"folders": ["../secret"]},
            {"folders": [".."]},
            {"folders": ["/etc"]},
            {"folders": 3},
            {"images": {"../secret/frame": [6, ".jpg", 1, 1]}},
            {"images": {"frame": [6, "/../../secret/frame000001.jpg", 1, 1]}},
            {"images": {"frame": [6]}},
            {"images": 3},
        ],
    )
    def test_an_index_of_folders_leads_nowhere(self, listing: Any, tmp_path: Path) -> None:
        """It may be damaged, or made by hand: then folders are listed anew."""
        unpack(tmp_path, {"secret/frame000001.jpg": jpeg(200)})
        root, index = unpack(tmp_path / "a", all_images(bare)), tmp_path / "index"
        for folder in [root, *root.rglob("*")]:
            os.utime(folder, (10**9, 10**9))  # long ago, so that the index counts
        before = found(root, index)
        (kept,) = index.iterdir()
        content = json.loads(kept.read_text())
        assert content[""]["changed"]
        content[""] = content[""] | listing if listing and listing != 5 else listing
        kept.write_text(json.dumps(content))
        assert found(root, index) == before

    @pytest.mark.parametrize(
        "spans",
        [3, {"a": 3}, [["a", "", 10**6, 1, 0]], [["a", "", 0, -1, 0]], [[5, 5, 0, 1, 0]], [[]]],
    )
    def test_a_damaged_index_is_made_anew(self, spans: Any, tmp_path: Path) -> None:
        archive, index = pack(tmp_path / "a.zip", all_images(bare)), tmp_path / "index"
        open_images(archive, index)
        (kept,), (array,) = index.glob("*.json"), index.glob("*.npy")
        kept.write_text(json.dumps(json.loads(kept.read_text()) | {"spans": spans}))
        assert open_images(archive, index).videos("rgb") == VIDEOS
        kept.write_bytes(b"[" * 10**5)
        assert open_images(archive, index).videos("rgb") == VIDEOS
        array.write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr':(       ")
        assert open_images(archive, index).videos("rgb") == VIDEOS

    def test_links_in_circles_come_to_an_end(self, tmp_path: Path) -> None:
        root = unpack(tmp_path / "a", all_images(bare))
        (root / "b").mkdir()
        for link, target in (("b/up", root), ("b/again", root), ("b/above", tmp_path)):
            (root / link).symlink_to(target)
        (root / "b" / "there").symlink_to(unpack(tmp_path / "c", {"v/frame1.jpg": jpeg(9)}))
        assert videos_below(root) == []
        assert set(open_images(root).videos("rgb")) == {*VIDEOS, "v"}

    def test_an_image_that_claims_to_be_huge(self, tmp_path: Path) -> None:
        small = jpeg(10)
        size = small.index(b"\xff\xc0") + 5  # of the frame header: height and width
        huge = small[:size] + b"\xff\xdc\xff\xdc" + small[size + 4 :]
        tree = open_images(unpack(tmp_path, {"a/frame000001.jpg": huge}))
        with pytest.raises(UserError, match=r"frame000001\.jpg is broken"):
            frames_of(FrameImages(tree, "a"), [0])


def found(root: Path, index: Path) -> dict[str, dict[str, int]]:
    tree = open_images(root, index)
    return {component: tree.videos(component) for component in ("rgb", "u", "v")}


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.file,)
