"""Train and test lists: the official ones of HMDB51 and UCF101, and how groups are divided."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from src.data.videos import Split, Video, key_of
from src.utils.errors import UserError

# v_<Class>_g<group>_c<clip>; <film>_<action>_<body>_<camera>_np<people>_<side>_<quality>_<clip>
UCF101_NAME = re.compile(r"(?P<group>v_.+_g\d+)_c\d+")
HMDB51_NAME = re.compile(r"(?P<group>.+)_[a-z]_[cn]m_np\d+_[a-z]{2}_[a-z]{3}_\d+")

_HMDB51 = """
brush_hair cartwheel catch chew clap climb climb_stairs dive draw_sword dribble drink eat
fall_floor fencing flic_flac golf handstand hit hug jump kick kick_ball kiss laugh pick pour pullup
punch push pushup ride_bike ride_horse run shake_hands shoot_ball shoot_bow shoot_gun sit situp
smile smoke somersault stand swing_baseball sword sword_exercise talk throw turn walk wave
"""
_UCF101 = """
ApplyEyeMakeup ApplyLipstick Archery BabyCrawling BalanceBeam BandMarching BaseballPitch Basketball
BasketballDunk BenchPress Biking Billiards BlowDryHair BlowingCandles BodyWeightSquats Bowling
BoxingPunchingBag BoxingSpeedBag BreastStroke BrushingTeeth CleanAndJerk CliffDiving CricketBowling
CricketShot CuttingInKitchen Diving Drumming Fencing FieldHockeyPenalty FloorGymnastics
FrisbeeCatch FrontCrawl GolfSwing Haircut Hammering HammerThrow HandstandPushups HandstandWalking
HeadMassage HighJump HorseRace HorseRiding HulaHoop IceDancing JavelinThrow JugglingBalls
JumpingJack JumpRope Kayaking Knitting LongJump Lunges MilitaryParade Mixing MoppingFloor Nunchucks
ParallelBars PizzaTossing PlayingCello PlayingDaf PlayingDhol PlayingFlute PlayingGuitar
PlayingPiano PlayingSitar PlayingTabla PlayingViolin PoleVault PommelHorse PullUps Punch PushUps
Rafting RockClimbingIndoor RopeClimbing Rowing SalsaSpin ShavingBeard Shotput SkateBoarding Skiing
Skijet SkyDiving SoccerJuggling SoccerPenalty StillRings SumoWrestling Surfing Swing
TableTennisShot TaiChi TennisSwing ThrowDiscus TrampolineJumping Typing UnevenBars
VolleyballSpiking WalkingWithDog WallPushups WritingOnBoard YoYo
"""
# Classes in the order of the logits, where the lists are not at hand.
HMDB51 = tuple(_HMDB51.split())  # as `read_hmdb51` finds them: alphabetical
UCF101 = tuple(_UCF101.split())  # as `read_ucf101` finds them: in the order of classInd.txt

# Videos to train on and to test on, by split; of the official lists.
HMDB51_SIZES = ((3570, 1530), (3570, 1530), (3570, 1530))
UCF101_SIZES = ((9537, 3783), (9586, 3734), (9624, 3696))

Label = TypeVar("Label", int, str)
_DIGITS = 9  # that shares are compared to: sums of them depend on the order
# The same for every run: what is chosen between must be validated on the same videos.
_VALIDATION_SEED = 7


class NoSuchSplit(UserError):
    """The split does not exist, or not here."""


HMDB51_TREE = """{videos}/<class>/<file>.avi and {lists}/<class>_test_split<1|2|3>.txt \
(unpacked from hmdb51_org.rar and test_train_splits.rar of the HMDB51 authors)"""
UCF101_TREE = """{videos}/<Class>/v_<Class>_g01_c01.avi and {lists}/trainlist01.txt, \
testlist01.txt, classInd.txt (unpacked from UCF101.rar and \
UCF101TrainTestSplits-RecognitionTask.zip of the UCF101 authors)"""


def read_hmdb51(
    root: str, split: int, videos: str = "videos", lists: str = "splits", any_size: bool = False
) -> Split:
    """Read split 1, 2 or 3 of HMDB51; classes are in alphabetical order.

    A line of a list is `<file>.avi <flag>` with flag 1 = train, 2 = test, 0 = in neither.

    Args:
        root, split: where the dataset lies; 1, 2 or 3.
        videos: folder with one folder of .avi files per class, relative to root.
        lists: folder of the official `<class>_test_split<n>.txt`, relative to root.
        any_size: whether lists of other lengths than the official ones are taken.

    Raises:
        NoSuchSplit: the lists or the split do not exist.
        UserError: a list is damaged or is not the official one.
    """
    videos_dir, lists_dir, tree = _folders("HMDB51", root, split, videos, lists, HMDB51_TREE)
    ending = f"_test_split{split}.txt"
    # By class, not by file name, where "kick_ball_..." comes before "kick_test_...".
    file_of = {file.name.removesuffix(ending): file for file in lists_dir.glob(f"*{ending}")}
    if not file_of:
        raise NoSuchSplit(f"HMDB51 has no split lists in {lists_dir}; expected {tree}")
    classes = tuple(sorted(file_of))
    marked: dict[str, list[tuple[str, int]]] = {"0": [], "1": [], "2": []}
    for label, name in enumerate(classes):
        for line in _lines(file_of[name]):
            if line.strip():
                video, _, flag = line.rstrip().rpartition(" ")
                if flag not in marked:
                    raise UserError(f"{file_of[name]}: {line!r} does not end in flag 0, 1 or 2")
                marked[flag].append((f"{name}/{video.strip()}", label))
    train, test = (_videos(lists_dir, videos_dir, marked[flag]) for flag in "12")
    _check_lists(
        train, test, None if any_size else HMDB51_SIZES[split - 1], f"{lists_dir}/*{ending}"
    )
    return Split(classes, train, test)


def read_ucf101(
    root: str, split: int, videos: str = "videos", lists: str = "splits", any_size: bool = False
) -> Split:
    """Read split 1, 2 or 3 of UCF101; classes are in the order of classInd.txt.

    Args and errors are those of `read_hmdb51`; `lists` holds trainlist0n.txt, testlist0n.txt and
    classInd.txt. Labels come from the class folder in the lists, which the 1-based labels of the
    train list are checked against.
    """
    videos_dir, lists_dir, tree = _folders("UCF101", root, split, videos, lists, UCF101_TREE)
    parts = {}
    for part in ("classInd.txt", f"trainlist0{split}.txt", f"testlist0{split}.txt"):
        file = lists_dir / part
        if not file.is_file():
            raise NoSuchSplit(f"UCF101's list {file} does not exist; expected {tree}")
        parts[part[:5]] = [line.split() for line in _lines(file) if line.strip()]
    classes = tuple(line[-1] for line in parts["class"])
    label_of = {name: label for label, name in enumerate(classes)}

    def labelled(lines: list[list[str]]) -> list[tuple[str, int]]:
        entries = []
        for path, *given in lines:
            label = label_of.get(path.split("/")[0])
            if label is None or (given and given[0] != str(label + 1)):
                raise UserError(f"UCF101's lists contradict classInd.txt at {path} {given}")
            entries.append((path, label))
        return entries

    train, test = (_videos(lists_dir, videos_dir, labelled(parts[p])) for p in ("train", "testl"))
    sizes = None if any_size else UCF101_SIZES[split - 1]
    _check_lists(train, test, sizes, f"{lists_dir}/*list0{split}.txt")
    return Split(classes, train, test)


def _check_lists(
    train: Sequence[Video], test: Sequence[Video], sizes: tuple[int, int] | None, where: str
) -> None:
    """Refuse a video that is listed twice, and other numbers of videos than `sizes`."""
    for key, count in Counter(map(key_of, (*train, *test))).items():
        if count > 1:
            both = " for training and for test" if count == 2 and key in map(key_of, test) else ""
            raise UserError(
                f"{where}: {key} is listed {count} times{both}: download the lists again"
            )
    if sizes and (len(train), len(test)) != sizes:
        raise UserError(
            f"{where}: {len(train)} videos to train on and {len(test)} to test on, not {sizes[0]} "
            f"and {sizes[1]}: download the lists again, or take them as they are with "
            "data.dataset.any_size=true"
        )
    if not test:
        raise UserError(f"{where}: no video to test on")


def _folders(
    dataset: str, root: str, split: int, videos: str, lists: str, tree: str
) -> tuple[Path, Path, str]:
    """The folders of videos and of lists, and the tree that is expected, with their places."""
    if split not in (1, 2, 3):
        raise NoSuchSplit(f"data.split={split} does not exist: {dataset} has splits 1, 2 and 3")
    videos_dir, lists_dir = Path(root) / videos, Path(root) / lists
    tree = tree.format(videos=videos_dir, lists=lists_dir)
    if not lists_dir.is_dir():
        raise NoSuchSplit(
            f"{dataset} is not here: {lists_dir} missing; expected {tree}; "
            "other places are given by data.dataset.root, .videos and .lists"
        )
    return videos_dir, lists_dir, tree


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"list {file} cannot be read ({error}): download it again") from error


def _videos(lists: Path, videos: Path, entries: Iterable[tuple[str, int]]) -> tuple[Video, ...]:
    """The videos of a list's entries `<class>/<file>` and their labels."""
    paths = [(_inside(entry, lists), label) for entry, label in entries]
    return tuple(
        Video(path.stem, videos / path, label, group_of(path.stem)) for path, label in paths
    )


def group_of(name: str) -> str | None:
    """The scene of a video of UCF101, the film and action of one of HMDB51, by its name."""
    match = UCF101_NAME.fullmatch(name) or HMDB51_NAME.fullmatch(name)
    return match["group"] if match else None


def _inside(entry: str, lists: Path) -> Path:
    """Refuse an entry that is no `<class>/<file>`: it might lie outside the videos' folder."""
    path = Path(entry)
    if len(path.parts) != 2 or path.anchor or ".." in path.parts or "\0" in entry:
        raise UserError(
            f"a list in {lists} names the video {entry!r}, which is no <class>/<file> below the "
            "folder of videos: download the lists again"
        )
    return path


# --- dividing by groups --------------------------------------------------------------------------


def fold_of_groups(
    counts: Mapping[tuple[str, Label], int], share: float, seed: int
) -> dict[str, int]:
    """The split, from 1, that tests each group of videos; 0 for none.

    There are as many splits as have tests of that share without a common video. Groups stay
    together, classes are divided in equal shares as far as groups allow. A group that a class has
    nothing beside is never tested; what a class of fewer groups than splits has is tested in the
    first splits.

    Args:
        counts: how many videos a group has of a class.
        share: of every class that a split tests, in 0..1.
        seed: of the order in which groups of the same size are dealt.
    """
    # One group after the other, large ones first, goes where its classes lack most.
    labels = sorted({label for _, label in counts})
    place_of = {label: place for place, label in enumerate(labels)}
    totals, groups_of_class = [0] * len(labels), [0] * len(labels)
    for (_, label), number in counts.items():
        totals[place_of[label]] += number
        groups_of_class[place_of[label]] += 1
    groups: list[str] = []
    shares: list[list[tuple[int, float]]] = []  # of each group: of which classes, and how much
    for group, label in sorted(counts):
        if not groups or groups[-1] != group:
            groups.append(group)
            shares.append([])
        place = place_of[label]
        shares[-1].append((place, counts[group, label] / totals[place]))
    splits: int = int(1 / share + 1e-9)
    rest = max(0.0, 1 - splits * share)
    # What is there less what should be, of each class; 0 is for those that are never tested.
    filled = np.repeat([[-rest], *[[-share]] * splits], len(labels), axis=1)
    columns: list[list[float]] = filled.T.tolist()  # the same by class: numpy is slow at so little
    folds = range(0 if rest > 1e-9 else 1, len(filled))
    scale = 10.0**_DIGITS  # to compare what is rounded to so many digits
    sizes_of_folds = [round(size * scale) for size in filled.sum(1).tolist()]

    fold_of = {}
    sizes = np.array([sum(part for _, part in of) for of in shares]).round(_DIGITS)
    order = np.random.default_rng(seed).permutation(len(groups))
    for place in order[np.argsort(-sizes[order], kind="stable")].tolist():
        of = shares[place]
        fewest = min(groups_of_class[label] for label, _ in of)
        fold = 0
        if fewest > 1:
            lacking = [0.0] * len(folds)
            for label, part in of:
                column = columns[label]
                lacking = [
                    lacks + column[fold] * part for lacks, fold in zip(lacking, folds, strict=True)
                ]
            rounded = [round(lacks * scale) for lacks in lacking]
            most = min(rounded)
            best = [fold for fold, lacks in zip(folds, rounded, strict=True) if lacks == most]
            fold = best[0]
            # The first splits test all classes that can be tested; else all splits grow alike.
            if len(best) > 1 and fewest >= splits:
                fold = min(best, key=sizes_of_folds.__getitem__)
        for label, part in of:
            columns[label][fold] += part
            filled[fold, label] = columns[label][fold]
        sizes_of_folds[fold] = round(float(filled[fold].sum()) * scale)
        fold_of[groups[place]] = fold
    return fold_of


def with_validation(split: Split, fraction: float) -> Split:
    """Move a part of the training list to the validation part; the test list stays as it is.

    Of each class complete groups are moved, those of one film or scene, as near to this fraction of
    its videos, in 0..1, as they allow; one group is always trained on.
    """
    counts = Counter((_group(video), video.label) for video in split.train)
    folds = fold_of_groups(counts, fraction, _VALIDATION_SEED)
    moved = {group for group, fold in folds.items() if fold == 1}
    for label in range(len(split.classes)):
        own = sorted(group for group, of in counts if of == label)
        if own and moved.issuperset(own):  # of a fraction near 1
            moved.remove(min(own, key=lambda group: counts[group, label]))
    parts: tuple[list[int], list[int]] = ([], [])  # places of those to train and to validate on
    for place, video in enumerate(split.train):
        parts[_group(video) in moved].append(place)
    train, val = map(split.train.take, parts)
    return replace(split, train=train, val=val)


def _group(video: Video) -> str:
    """Within its class: official lists divide a film's clips of two classes, too."""
    return f"{video.label}/{video.alike}"
