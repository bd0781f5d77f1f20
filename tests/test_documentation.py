"""The documents' commands: each composes, most are run, on data made small."""

import importlib
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from src.data.splits import HMDB51, UCF101
from src.data.two_movers import flow_settings
from src.experiment.build import build_module, build_net
from src.experiment.compose import CONF_DIR
from src.experiment.config import stage_config, stage_configs
from src.extraction.extract import extract_flow
from src.utils.errors import UserError
from src.utils.mistakes import find_mistake
from tests import documents
from tests.builders import write_flow, write_video
from tests.conftest import TINY, compose_config
from tests.documents import ROOT, Named
from tests.importing.released_mat import base_stream, joined

# What stands in a document for a name of the reader's: "ckpt_path=...", "<file>".
FILLED = {
    "ckpt_path=...": "ckpt_path=joint.ckpt",
    "experiment=...": "experiment=st_resnet_two_movers",
}
PLUGINS = {
    "hydra/launcher=slurm": "hydra_plugins.hydra_submitit_launcher",
    "hydra/sweeper=optuna": "optuna",
}

# What makes the commands small.
FLOW = ("flow=dis", "flow.short_side=64", "workers=1")
CPU = ("trainer.accelerator=cpu",)
SMALL = (
    *(one for one in TINY if "num_t" not in one),  # these are two_movers' own
    *CPU,
    "logger=[csv,tensorboard]",
    "model/backbone=narrow26",
    "data.short_side=64",
    "data.crop_size=56",
    "stages.motion.data.crop.sides=[64,56,48]",
    "data.test.frames=11",
    "trainer.limit_train_batches=1",
)


def moving(path: Path, seed: int, frames: int = 24) -> None:
    """A video of noise that moves, its direction by the seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    speed = 2 * (seed % 3) - 2
    write_video(path, np.stack([np.roll(noise, speed * time, axis=1) for time in range(frames)]))


ANY_SIZE = "data.dataset.any_size=true"  # lists as short as those that are made here


def hmdb51(place: Path, run: Path) -> None:
    """The lists of all classes; two of them have videos, and are tested on another one each."""
    root = place / "data" / "hmdb51"
    (root / "splits").mkdir(parents=True)
    for name in HMDB51:
        clips = [f"{name}_{n}.avi" for n in range(3)] if name in ("kick", "wave") else []
        for split in range(3):
            lines = [f"{clip} {2 if n == split else 1} \n" for n, clip in enumerate(clips)]
            (root / "splits" / f"{name}_test_split{split + 1}.txt").write_text("".join(lines))
        for number, clip in enumerate(clips):
            moving(root / "videos" / name / clip, number)


def own_videos(place: Path, run: Path) -> None:
    for number, name in enumerate(("left", "still", "right")):
        for clip in range(3):
            moving(place / "my_videos" / name / f"{name}{clip}.mp4", number)


def released(place: Path, run: Path) -> None:
    appearance = base_stream(3, 26, classes=101, seed=1)
    motion = base_stream(20, 26, classes=101, seed=2, dropout=True)
    joined(appearance, motion, "Sum", None).save(place / "ucf101-ST-ResNet50-split=1.mat")
    root, name = place / "data" / "ucf101", "v_Archery_g01_c01"
    moving(root / "videos" / "Archery" / f"{name}.avi", 0)
    write_flow(root / "tvl1_flow", name, np.full((23, 64, 64, 2), 128, np.uint8))
    lists = {
        "classInd": "\n".join(f"{n} {each}" for n, each in enumerate(UCF101, start=1)),
        "trainlist01": "",
        "testlist01": f"Archery/{name}.avi",
    }
    for each, content in lists.items():
        (root / "splits" / f"{each}.txt").parent.mkdir(exist_ok=True)
        (root / "splits" / f"{each}.txt").write_text(content)


def a_checkpoint(place: Path, run: Path) -> None:
    shutil.copyfile(run / "joint" / "last.ckpt", place / "joint.ckpt")
    shutil.copyfile(run / "motion" / "scores.csv", place / "idt.csv")
    moving(place / "my_videos" / "still" / "a.mp4", 1)
    moving(place / "clip.mp4", 0)
    moving(place / "film.mp4", 2, frames=150)
    new = place / "new_videos"
    moving(new / "red_left" / "b.mp4", 0)
    (new / "list.csv").write_text("red_left/b.mp4,red_left\n")
    extract_flow([new / "red_left" / "b.mp4"], new / "flow", flow_settings(), workers=1)


def extension(place: Path, run: Path) -> None:
    (place / "tests").symlink_to(ROOT / "tests")
    (place / "streams").symlink_to(run)


@dataclass(frozen=True)
class Story:
    """Commands that are run one after another in one folder, as a reader would.

    Args:
        prepare: puts into the folder what the reader has; it may take it from a finished run.
        commands: each with the overrides that make it small.
        written: what is there in the end, among other things.
    """

    prepare: Callable[[Path, Path], None]
    commands: dict[str, tuple[str, ...]]
    written: tuple[str, ...]


RUN = {
    "hmdb51": Story(
        hmdb51,
        {
            "extract_frames input=data/hmdb51/videos output=data/hmdb51/frames": ("workers=1",),
            "extract_flow input=data/hmdb51/videos output=data/hmdb51/tvl1_flow "
            "frames=data/hmdb51/frames": FLOW,
            "extract_flow input=data/hmdb51/videos output=data/hmdb51/tvl1_flow": FLOW,
            "verify_data data=hmdb51": ("workers=1", ANY_SIZE),
            "train experiment=st_resnet_hmdb51 debug=config": (),
            "train experiment=st_resnet_hmdb51 debug=steps": (
                *SMALL,
                ANY_SIZE,
                "run_stages=appearance",
            ),
            "train experiment=st_resnet_hmdb51 data.split=1": (*SMALL, ANY_SIZE),
            "evaluate ckpt_path=outputs/st_resnet_hmdb51/split1_seed0/joint/last.ckpt": CPU,
            "report runs=outputs": ("details=1",),
            "report runs=outputs baseline=late_fusion": ("details=0",),
        },
        (
            "data/hmdb51/manifest.jsonl",
            "outputs/debug/st_resnet_hmdb51/split1_seed0/appearance/stage.json",
            "outputs/st_resnet_hmdb51/split1_seed0/joint/evaluation/scores.csv",
            "outputs/report/report.html",
        ),
    ),
    "own videos": Story(
        own_videos,
        {
            "extract_flow input=my_videos output=my_videos/flow": FLOW,
            "verify_data data=folder data.dataset.root=my_videos": ("workers=1",),
            "train experiment=st_resnet_folder data.dataset.root=my_videos": (
                *SMALL,
                "skip_stages=[joint,joint_pooled]",
            ),
        },
        ("outputs/st_resnet_folder/split1_seed0/motion/scores.csv",),
    ),
    "released model": Story(
        released,
        {
            "import_matconvnet input=ucf101-ST-ResNet50-split=1.mat output=released.ckpt": (),
            "evaluate ckpt_path=released.ckpt +data.dataset.root=data/ucf101 "
            "+data.flow=data/ucf101/tvl1_flow": (*CPU, "+data.test.frames=6", f"+{ANY_SIZE}"),
        },
        ("evaluation/scores.csv",),
    ),
    "a checkpoint": Story(
        a_checkpoint,
        {
            "evaluate ckpt_path=joint.ckpt protocol=ten_crops": CPU,
            "evaluate ckpt_path=joint.ckpt videos=new_videos": CPU,
            "evaluate ckpt_path=joint.ckpt videos=new_videos/list.csv flow=new_videos/flow": CPU,
            "predict ckpt_path=joint.ckpt input=clip.mp4": (),
            "predict ckpt_path=joint.ckpt input=film.mp4 window=4 step=1 plot=out annotate=out": (),
            "fuse inputs=[joint.ckpt,idt.csv] weights=[1,0.5] average_over=probabilities": CPU,
            "features ckpt_path=joint.ckpt lists=[train,test] output=features.npz": CPU,
            "features ckpt_path=joint.ckpt input=my_videos output=my_videos.npz": CPU,
            "train experiment=st_resnet_hmdb51 debug=summary": (),
        },
        (
            "evaluation/scores.csv",
            "evaluation/new_videos/scores.confusion.csv",
            "evaluation/list/scores.csv",
            "predictions.csv",
            "out/film.png",
            "out/film_annotated.mp4",
            "fused_scores.csv",
            "features.npz",
            "my_videos.npz",
        ),
    ),
    "extension": Story(
        extension,
        {
            "train --config-dir tests/extension/conf experiment=three_streams": (
                *TINY,
                "paths.streams_dir=streams",
                "resume=force",  # the data of the streams have another name
            )
        },
        ("outputs/three_streams/split1_seed0/joint/scores_change.csv",),
    ),
}

# Why these are not run here, but only composed.
COMPOSED = {
    "train sweep=claim": "25 trainings",
    "train experiment=st_resnet_hmdb51 sweep=splits": "three trainings",
    "train -m experiment=st_resnet_hmdb51 seed=1,2 optimizer.weight_decay=0,1e-4": "four trainings",
    "train -m experiment=st_resnet_hmdb51 seed=1,2,3,4 hydra/launcher=local": "four trainings",
    "train -m experiment=st_resnet_hmdb51 seed=1,2,3,4 hydra/launcher=local "
    "hydra.launcher.n_jobs=2 trainer=ddp trainer.devices=4": "eight GPUs",
    "train experiment=st_resnet_hmdb51 sweep=search": "many trainings, see training/test_optuna.py",
    "train experiment=st_resnet_ucf101 data.rgb=data/ucf101/ucf101_jpegs_256.zip.001 "
    "data.flow=data/ucf101/ucf101_tvl1_flow.zip.001": (
        "needs the published archives, see training/test_archives.py"
    ),
    "export ckpt_path=joint.ckpt": "takes 15 seconds, see exporting/test_export.py",
    "train experiment=st_resnet_hmdb51 trainer=ddp trainer.devices=4 trainer.num_nodes=2": (
        "needs two nodes of four GPUs"
    ),
    "train -m experiment=st_resnet_hmdb51 data.split=1,2,3 trainer=ddp trainer.devices=4 "
    "hydra/launcher=slurm hydra.launcher.partition=gpu": "needs a cluster, see cluster/",
    "train -m experiment=st_resnet_hmdb51 hydra/sweeper=optuna data.val_fraction=0.2 "
    "data.test.part=val "
    "lr_scheduler@stages.joint.lr_scheduler=warmup_cosine "
    "'stages.joint.optimizer.lr=tag(log,interval(1e-4,1e-2))' 'label_smoothing=choice(0,0.1)'": (
        "many trainings, see training/test_optuna.py"
    ),
    "benchmark target=[loader,decode,flow,step,startup,lists] clips=<folder of videos>": (
        "takes minutes, see benchmarks/test_targets.py"
    ),
    **dict.fromkeys(
        (
            "verify_data data=folder data.dataset.root=data/survfight "
            "data.dataset.lists=data/survfight/list.csv data.flow=on_the_fly",
            "verify_data data=folder data.dataset.root=data/survfight "
            "data.dataset.lists=data/survfight/list.csv data.rgb=data/survfight/frames",
            "extract_flow input=data/survfight output=data/survfight/flow flow=dis_fine "
            "flow.short_side=128 flow.bound=8 frames=data/survfight/frames frames_short_side=128",
            "train experiment=two_stream_folder sweep=splits recipe=small "
            "data.dataset.root=data/survfight data.dataset.lists=data/survfight/list.csv "
            "data.rgb=data/survfight/frames model.backbone.width=16 "
            "trainer.check_val_every_n_epoch=5 stages.appearance.max_epochs=60 "
            "stages.appearance.optimizer.lr=0.02 stages.appearance.model.appearance.dropout=0 "
            "stages.motion.max_epochs=60 "
            "'paths.streams_dir=outputs/survfight_streams/split${data.split}' "
            "hydra/launcher=local hydra.launcher.n_jobs=3",
        ),
        "need a dataset of 88 MB, and an hour",
    ),
    "benchmark target=step hardware=gpu rounds=3": "needs a GPU, see benchmarks/test_targets.py",
}

COMMANDS = documents.commands()
TO_RUN = [command for story in RUN.values() for command in story.commands]


def filled(text: str) -> list[str]:
    """A command's words, or some overrides, with names in place of the reader's own."""
    for placeholder, name in FILLED.items():
        text = text.replace(placeholder, name)
    return shlex.split(re.sub(r"<[^<>]*>", "file", text))


def main_of(name: str) -> Callable[[], None]:
    main: Callable[[], None] = importlib.import_module(f"src.{name}").main
    return main


def first_of_each(named: Sequence[Named]) -> list[Named]:
    return list({each.text: each for each in reversed(named)}.values())[::-1]


def test_no_command_is_overlooked() -> None:
    for path in documents.DOCUMENTS:
        name = f"{path.relative_to(ROOT)}:"
        found = sum(each.where.startswith(name) for each in COMMANDS)
        written = len(re.findall(r"python\s+-m\s+src\.\w", path.read_text()))
        assert found == written, f"{name} {written - found} commands are not written as code"


def test_every_command_has_a_place() -> None:
    places, texts = [*COMPOSED, *TO_RUN], [each.text for each in COMMANDS]
    wrong = [
        *(f"{each} is in neither RUN nor COMPOSED" for each in COMMANDS if each.text not in places),
        *(f"{each} is in no document" for each in places if each not in texts),
        *(f"{each} has two places" for each in set(places) if places.count(each) > 1),
    ]
    assert not wrong, "\n".join(wrong)


def jobs_of(overrides: list[str]) -> Iterator[tuple[str, ...]]:
    """The overrides of each job of a sweep; of an interval, its ends."""
    choices = []
    for each in OverridesParser.create().parse_overrides(overrides):
        key, value = each.get_key_element(), each.value()
        if isinstance(value, IntervalSweep):
            choices.append([f"{key}={value.start}", f"{key}={value.end}"])
        elif each.is_sweep_override():
            choices.append([f"{key}={one}" for one in each.sweep_string_iterator()])
        else:
            choices.append([str(each.input_line)])
    return product(*choices)


@pytest.mark.slow
@pytest.mark.parametrize(
    "named", [each for each in first_of_each(COMMANDS) if each.text not in TO_RUN], ids=str
)
def test_command_composes(
    named: Named,
    call: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    name, *words = filled(named.text)
    for word in PLUGINS.keys() & words:
        pytest.importorskip(PLUGINS[word])
    monkeypatch.chdir(ROOT)
    given = get_args_parser().parse_args(words)
    place = [f"--config-dir={given.config_dir}"] if given.config_dir else []
    for job in jobs_of(given.overrides) if given.multirun else [given.overrides]:
        status = call(main_of(name), *place, *job, "--cfg=job")
        assert status == 0, f"{named}: {capfd.readouterr().err}"


@pytest.mark.slow
@pytest.mark.parametrize("story", RUN)
def test_commands_run(
    story: str,
    finished_run: Path,
    call: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    told = RUN[story]
    told.prepare(tmp_path, finished_run)
    for command, small in told.commands.items():
        name, *words = filled(command)
        status = call(main_of(name), *words, *small)
        printed = capfd.readouterr()
        assert status == 0, f"{command}: {printed.out[-2000:]}{printed.err[-2000:]}"
    for path in told.written:
        assert (tmp_path / path).is_file(), path


def known_to(command: str) -> set[str]:
    """With what a key of a command's config may begin."""
    config = OmegaConf.load(CONF_DIR / f"{command}.yaml")
    groups = [key for entry in config.defaults if isinstance(entry, DictConfig) for key in entry]
    return {str(key) for key in (*config, *groups, "hydra")}


def head(override: str) -> str:
    """data of data.split=2, data/crop=corner and flow@data.flow_settings=dis."""
    place = override.partition("=")[0].rpartition("@")[2]
    return re.split(r"\W", place.lstrip("+~"))[0]


# In this order: what takes an override that a document gives without its command.
PUBLISHED = ("train", "experiment=st_resnet_hmdb51")
TAKERS: list[tuple[str, ...]] = [
    PUBLISHED,
    ("train", "experiment=st_resnet_folder"),
    ("train",),
    ("train", "hydra/sweeper=optuna"),
    *sorted((file.stem,) for file in CONF_DIR.glob("*.yaml") if file.stem != "train"),
]


@pytest.mark.slow
@pytest.mark.parametrize("named", first_of_each(documents.overrides()), ids=str)
def test_override_composes(named: Named) -> None:
    """Alone, with the published experiment, or else with the command that knows its key."""
    words = filled(named.text)
    heads = {head(word) for word in words}
    refusals = []
    for taker in TAKERS:
        if not heads <= known_to(taker[0]):
            continue
        try:
            cfg = compose_config(*taker, *words)
            break
        except Exception as error:
            refusals.append(f"{' '.join(taker)}: {find_mistake(error) or error}")
    else:
        pytest.fail(f"{named}: {'; '.join(refusals) or 'no command knows its key'}")
    if taker == PUBLISHED:  # Hydra takes any value; what is built of it says which there are
        config = stage_config(cfg, "joint")
        try:
            stage_configs(cfg, words)  # one of them sees it
            with torch.device("meta"):
                build_module(config, build_net(config), total_steps=100).configure_optimizers()
        except (HydraException, TypeError, ValueError, UserError) as error:
            pytest.fail(f"{named}: {find_mistake(error) or error}")


def test_links_lead_somewhere() -> None:
    dead = []
    for link in documents.links():
        if re.match(r"\w+:", link.text):  # of the web
            continue
        document = ROOT / link.where.rpartition(":")[0]
        name, _, anchor = link.text.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or (anchor and anchor not in documents.headings(target)):
            dead.append(str(link))
    assert not dead, "\n".join(dead)


@pytest.mark.parametrize("named", first_of_each(documents.modules()), ids=str)
def test_module_exists(named: Named) -> None:
    assert resolve_name(named.text)
