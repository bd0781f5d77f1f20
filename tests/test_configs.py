"""Every config file composes, and says what it is for."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.cli import CONF_DIR
from src.data.sampling import StridedRun
from src.data.transforms import CornerJitterCrop, MultiScaleCrop
from src.experiment.build import build_datamodule
from src.experiment.config import stage_config, stage_names
from src.models.connection import Connection
from src.models.resnet import ResNet
from src.models.temporal import TemporalPool
from src.models.two_stream import TwoStreamResNet
from src.training.checks import check_plans
from tests.conftest import compose_config
from tests.data.test_splits import touch

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))
BACKBONES = CONF_DIR / "model" / "backbone"
MODELS, DATASETS = (
    ("appearance", "motion", "two_stream", "st_resnet", "st_multiplier"),
    ("hmdb51", "ucf101", "two_movers", "folder"),
)


def test_grid_is_complete() -> None:
    assert sorted(f"{model}_{data}" for model in MODELS for data in DATASETS) == EXPERIMENTS


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_composes_and_its_networks_run(experiment: str, tmp_path: Path) -> None:
    """All stages' networks take the batches that the stages' data promise (checked on meta)."""
    overrides = [f"experiment={experiment}"]
    if experiment.endswith("_folder"):  # its classes are counted
        touch(tmp_path, ["walk/1.mp4", "walk/2.mp4", "run/3.mp4", "run/4.mp4", "jump/5.mp4"])
        overrides.append(f"data.dataset.root={tmp_path}")
    config = compose_config("train", *overrides)
    plans = {name: stage_config(config, name) for name in stage_names(config)}
    check_plans(plans, config)
    assert config["name"] == experiment
    stages = {"appearance": 1, "motion": 1, "two_stream": 2, "st_resnet": 4, "st_multiplier": 3}
    assert len(plans) == stages[experiment.rsplit("_", 2 if "movers" in experiment else 1)[0]]


def test_an_experiment_has_the_last_word() -> None:
    assert "half" in compose_config("train").remark


def test_published_schedules() -> None:
    """The table of passes and batches of the paper's implementation."""
    passes = {"hmdb51": [40, 400, 80, 2], "ucf101": [60, 400, 80, 2]}
    for dataset, expected in passes.items():
        config = compose_config("train", f"experiment=st_resnet_{dataset}")
        stages = config["stages"].values()
        assert [instantiate(s["module"]["schedule"]).epochs for s in stages] == expected
        assert [s["batch_size"] for s in stages] == [256, 128, 128, 128]
        assert [s["data"]["frames"] for s in stages] == [1, 1, 5, 11]
        assert config["optimizer"]["weight_decay"] == 5e-4
        assert config["data"]["num_classes"] == {"hmdb51": 51, "ucf101": 101}[dataset]


def test_published_st_mulnet() -> None:
    config = compose_config("train", "experiment=st_multiplier_ucf101")
    joint = config["stages"]["joint"]
    schedule = instantiate(joint["module"]["schedule"])
    assert schedule.phases == [(1e-3, 10), (1e-4, 5), (1e-5, 5), (1e-6, 5)]
    assert (joint["batch_size"], joint["data"]["frames"]) == (128, 5)
    assert joint["data"]["stride"] == [5, 35]
    with torch.device("meta"):
        net = instantiate(config["model"]["net"])
    assert net.connection == Connection("multiplicative")
    assert net.temporal_pool == TemporalPool(5, 1)
    assert net.state_dict()["motion.layer3.1.temporal.weight"].shape == (256, 256, 3, 1, 1)


@pytest.mark.parametrize("backbone", sorted(p.stem for p in BACKBONES.glob("[!_]*.yaml")))
def test_backbones(backbone: str) -> None:
    """Each makes streams of its depth; ResNet-18 and -34 with injected filters."""
    overrides = ["experiment=st_multiplier_hmdb51", f"model/backbone={backbone}"]
    config = compose_config("train", *overrides)
    with torch.device("meta"):
        net = instantiate(config["model"]["net"])
    assert f"{net.appearance.depth}" in backbone
    assert (net.appearance.conv1.bias is not None) == ("caffe" in backbone)
    normalise = instantiate(config["model"]["normalise"])
    assert (normalise.rgb_std.flatten().tolist() == [1, 1, 1]) == ("caffe" in backbone)


def test_a_deeper_motion_stream() -> None:
    overrides = ["experiment=st_multiplier_ucf101", "model.motion.depth=152"]
    config = compose_config("train", *overrides)
    plans = {name: stage_config(config, name) for name in stage_names(config)}
    check_plans(plans, config)
    assert plans["motion"]["net"]["depth"] == plans["joint"]["net"]["motion"]["depth"] == 152
    assert plans["appearance"]["net"]["depth"] == 50


@pytest.mark.parametrize(
    ("group", "choice"),
    [
        (folder.name, file.stem)
        for folder in sorted((CONF_DIR / "data").iterdir())
        if folder.is_dir()
        for file in sorted(folder.glob("*.yaml"))
    ],
)
def test_choices_of_data(group: str, choice: str) -> None:
    """A choice reaches all stages but those that have their own; what stages set stays."""
    file = OmegaConf.load(CONF_DIR / "data" / group / f"{choice}.yaml")
    assert isinstance(file, DictConfig)
    cfg = compose_config("train", "experiment=st_resnet_hmdb51", f"data/{group}={choice}")
    config = cfg
    for stage in stage_names(config):
        plan = stage_config(config, stage)
        own = (stage, group) == ("motion", "crop")
        target = "src.data.transforms.MultiScaleCrop" if own else file._target_
        assert plan["data"][group]["_target_"] == target
        view = build_datamodule(plan).train_view
        assert target.endswith(f".{type(getattr(view, group)).__name__}")
        assert list(view.stride) == {"joint": [5, 15], "joint_pooled": [1, 15]}.get(stage, [1, 1])


def test_data_is_cut_as_published() -> None:
    config = compose_config("train", "experiment=st_resnet_hmdb51")
    views = {s: build_datamodule(stage_config(config, s)).train_view for s in stage_names(config)}
    motion = views.pop("motion")
    assert isinstance(motion.crop, MultiScaleCrop)
    assert list(motion.crop.sides) == [256, 224, 192, 168]
    for view in (motion, *views.values()):
        assert (view.sampler, view.augment, view.rescale_flow) == (StridedRun(), None, False)
        assert (view.crop == CornerJitterCrop(224, 0.25)) == (view is not motion)


def test_crop_of_one_stage() -> None:
    cfg = compose_config(
        "train",
        "experiment=st_resnet_hmdb51",
        "data/crop@stages.motion.data.crop=random_resized",
        "stages.motion.data.crop.area=[0.5,1]",
    )
    config = cfg
    crops = {s: stage_config(config, s)["data"]["crop"] for s in stage_names(config)}
    assert crops["motion"]["area"] == [0.5, 1]
    assert "CornerJitterCrop" in crops["joint"]["_target_"]


def test_two_movers_keep_their_speed() -> None:
    config = compose_config("train", "experiment=st_resnet_two_movers")
    for stage in stage_names(config):
        view = build_datamodule(stage_config(config, stage)).train_view
        assert view.crop == CornerJitterCrop(56, 0)
        assert not view.mirror


def test_contract_of_the_network() -> None:
    cfg = compose_config("train", "experiment=st_resnet_hmdb51")
    with torch.device("meta"):
        net = instantiate(cfg.model.net)
        logits = net(torch.empty(2, 3, 5, 224, 224), torch.empty(2, 20, 5, 224, 224))
    assert isinstance(net, TwoStreamResNet)
    assert [tuple(x.shape) for x in logits] == [(2, 5, 51), (2, 5, 51)]
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    assert shapes["appearance.conv1.weight"] == (64, 3, 7, 7)
    assert shapes["motion.conv1.weight"] == (64, 20, 7, 7)
    assert shapes["motion.layer2.1.conv3.weight"] == (512, 128, 3, 1, 1)
    with torch.device("meta"):
        stream = instantiate(compose_config("train", "experiment=motion_ucf101").model.net)
    assert isinstance(stream, ResNet)
    assert stream.fc.out_features == 101


@pytest.mark.parametrize("file", sorted(CONF_DIR.rglob("*.yaml")), ids=lambda p: p.stem)
def test_file_says_what_it_is_for(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ")
    assert lines[1].startswith("# ")


@pytest.mark.parametrize("debug", sorted(p.stem for p in (CONF_DIR / "debug").glob("*.yaml")))
def test_debug_runs_leave_others_alone(debug: str) -> None:
    """They have a directory of their own, or look at that of another and write nothing."""
    cfg = compose_config("train", f"debug={debug}")
    trains = not cfg.summary
    assert ("debug" in cfg.paths.run_dir) == trains
    instantiate(cfg.trainer, logger=False)
