"""Every config file composes, and says what it is for."""

from itertools import groupby
from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.data.sampling import StridedSampler
from src.data.transforms import CornerJitterCrop, MultiScaleCrop
from src.experiment.build import build_datamodule, build_net
from src.experiment.compose import CONF_DIR
from src.experiment.config import StageConfig, stage_config, stage_configs
from src.experiment.run_dir import stage_dirs
from src.models.connection import Connection
from src.models.resnet import ResNet
from src.models.temporal import TemporalPool
from src.models.two_stream import TwoStreamResNet
from src.training.checks import check_stages
from tests.conftest import compose_config
from tests.data.test_splits import touch

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))
BACKBONES = CONF_DIR / "model" / "backbone"
MODELS, DATASETS = (
    ("appearance", "motion", "two_stream", "st_resnet", "st_multiplier"),
    ("hmdb51", "ucf101", "two_movers", "folder"),
)
# Experiments that differ from those on HMDB51 in their data and in nothing that is run.
ALIKE = [f"{model}_{data}" for model in MODELS for data in ("ucf101", "folder")]


def test_grid_is_complete() -> None:
    assert sorted(f"{model}_{data}" for model in MODELS for data in DATASETS) == EXPERIMENTS


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ALIKE)
def test_experiment_is_that_of_hmdb51_on_other_data(experiment: str, tmp_path: Path) -> None:
    model, _, data = experiment.rpartition("_")
    touch(tmp_path, ["walk/1.mp4", "walk/2.mp4", "run/3.mp4", "run/4.mp4", "jump/5.mp4"])
    root = f"data.dataset.root={tmp_path}"  # classes of a folder are counted
    own, other = (
        compose_config("train", *overrides, root)
        for overrides in (
            [f"experiment={experiment}"],
            [f"experiment={model}_hmdb51", f"data={data}", f"name={experiment}"],
        )
    )
    assert own.data.num_classes == {"ucf101": 101, "folder": 3}[data]
    if data == "ucf101" and "appearance" in own.stages:  # HMDB51's is published for fewer epochs
        own.stages.appearance = other.stages.appearance
    own.logger = other.logger = None
    assert own == other


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [one for one in EXPERIMENTS if one not in ALIKE])
def test_experiment_composes_and_its_networks_run(experiment: str) -> None:
    """All stages' networks take the batches that the stages' data promise (checked on meta)."""
    cfg = compose_config("train", f"experiment={experiment}")
    configs = stage_configs(cfg)
    check_stages(configs, stage_dirs(cfg))
    assert cfg.name == experiment
    stages = {"appearance": 1, "motion": 1, "two_stream": 2, "st_resnet": 4, "st_multiplier": 3}
    assert len(configs) == stages[experiment.rsplit("_", 2 if "movers" in experiment else 1)[0]]


def test_composing_within_a_command() -> None:
    """As the report does, of which row a published number is."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        assert compose_config("train", "seed=3").seed == 3
    assert compose_config("train", "seed=4").seed == 4


def test_an_experiment_has_the_last_word() -> None:
    assert "half" in compose_config("train").notes


def phases(config: StageConfig) -> list[tuple[float, int]]:
    """Learning rates of a stage, each with the number of epochs that have it, in order."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=config["optimizer"]["lr"])
    scheduler = instantiate(config["lr_scheduler"], _convert_="all")(optimizer)
    rates = []
    for _ in range(config["max_epochs"]):
        rates.append(float(f"{optimizer.param_groups[0]['lr']:.6g}"))
        optimizer.step()
        scheduler.step()
    return [(rate, len(list(same))) for rate, same in groupby(rates)]


@pytest.mark.parametrize(
    ("dataset", "appearance"),
    [
        ("hmdb51", [(1e-2, 20), (1e-3, 10), (1e-4, 10)]),
        ("ucf101", [(1e-2, 20), (1e-3, 20), (1e-4, 20)]),
    ],
)
def test_published_schedules(dataset: str, appearance: list[tuple[float, int]]) -> None:
    """The table of epochs, rates and batches of the paper's implementation."""
    configs = stage_configs(compose_config("train", f"experiment=st_resnet_{dataset}"))
    assert {stage: phases(config) for stage, config in configs.items()} == {
        "appearance": appearance,
        "motion": [(1e-2, 100), (1e-3, 100), (1e-4, 100), (1e-5, 100)],
        "joint": [(1e-3, 30), (1e-4, 30), (1e-5, 20)],
        "joint_pooled": [(1e-4, 1), (1e-5, 1)],
    }
    stages = configs.values()
    assert [config["effective_batch_size"] for config in stages] == [256, 128, 128, 128]
    assert [config["data"]["frames"] for config in stages] == [1, 1, 5, 11]
    assert {config["optimizer"]["weight_decay"] for config in stages} == {5e-4}
    classes = {"hmdb51": 51, "ucf101": 101}[dataset]
    assert {config["data"]["num_classes"] for config in stages} == {classes}


def test_published_st_mulnet() -> None:
    joint = stage_config(compose_config("train", "experiment=st_multiplier_ucf101"), "joint")
    assert phases(joint) == [(1e-3, 10), (1e-4, 5), (1e-5, 5), (1e-6, 5)]
    assert (joint["effective_batch_size"], joint["data"]["frames"]) == (128, 5)
    assert joint["data"]["frame_stride"] == [5, 35]
    with torch.device("meta"):
        net = build_net(joint)
    assert net.connection == Connection("multiplicative")
    assert net.temporal_pool == TemporalPool(5, 1)
    assert net.state_dict()["motion.layer3.1.temporal.weight"].shape == (256, 256, 3, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", sorted(p.stem for p in BACKBONES.glob("[!_]*.yaml")))
def test_backbones(backbone: str) -> None:
    """Each makes streams of its depth; ResNet-18 and -34 with inserted filters."""
    overrides = ["experiment=st_multiplier_hmdb51", f"model/backbone={backbone}"]
    config = compose_config("train", *overrides)
    with torch.device("meta"):
        net = instantiate(config["model"]["net"])
    assert f"{net.appearance.depth}" in backbone
    assert (net.appearance.conv1.bias is not None) == ("caffe" in backbone)
    normalize = instantiate(config["model"]["normalize"])
    assert (normalize.rgb_std.flatten().tolist() == [1, 1, 1]) == ("caffe" in backbone)


@pytest.mark.slow
def test_a_deeper_motion_stream() -> None:
    overrides = ["experiment=st_multiplier_ucf101", "model.motion.depth=152"]
    cfg = compose_config("train", *overrides)
    configs = stage_configs(cfg)
    check_stages(configs, stage_dirs(cfg))
    networks = {stage: config["model"][config["network"]] for stage, config in configs.items()}
    assert networks["motion"]["depth"] == networks["joint"]["motion"]["depth"] == 152
    assert networks["appearance"]["depth"] == 50


@pytest.mark.parametrize(
    ("group", "choice"),
    [
        (folder.name, file.stem)
        for folder in sorted((CONF_DIR / "data").iterdir())
        if folder.is_dir() and folder.name != "size"
        for file in sorted(folder.glob("*.yaml"))
    ],
)
def test_choices_of_data(group: str, choice: str) -> None:
    """A choice reaches all stages but those that have their own; what stages set stays."""
    file = OmegaConf.load(CONF_DIR / "data" / group / f"{choice}.yaml")
    assert isinstance(file, DictConfig)
    cfg = compose_config("train", "experiment=st_resnet_hmdb51", f"data/{group}={choice}")
    for stage, config in stage_configs(cfg).items():
        own = (stage, group) == ("motion", "crop")
        target = "src.data.transforms.MultiScaleCrop" if own else file._target_
        assert config["data"][group]["_target_"] == target
        module = build_datamodule(config)
        view = module.train_view
        chosen = getattr(module if group == "augment" else view, group)
        assert target.endswith(f".{type(chosen).__name__}")
        assert list(view.stride) == {"joint": [5, 15], "joint_pooled": [1, 15]}.get(stage, [1, 1])


def test_data_is_cut_as_published() -> None:
    configs = stage_configs(compose_config("train", "experiment=st_resnet_hmdb51"))
    modules = {stage: build_datamodule(config) for stage, config in configs.items()}
    assert all(module.augment is None for module in modules.values())
    views = {stage: module.train_view for stage, module in modules.items()}
    motion = views.pop("motion")
    assert isinstance(motion.crop, MultiScaleCrop)
    assert list(motion.crop.sides) == [256, 224, 192, 168]
    for view in (motion, *views.values()):
        assert view.sampler == StridedSampler()
        assert (view.crop == CornerJitterCrop(224, 0.25)) == (view is not motion)


@pytest.mark.parametrize(
    ("experiment", "recipe", "sizes"),
    [
        ("appearance_hmdb51", "paper", (256, 224)),
        ("appearance_hmdb51", "small", (128, 112)),
        ("appearance_two_movers", "paper", (64, 56)),
        ("appearance_two_movers", "small", (64, 56)),
    ],
)
def test_sizes_are_the_recipes(experiment: str, recipe: str, sizes: tuple[int, int]) -> None:
    """But for videos that are made at one size."""
    data = compose_config("train", f"experiment={experiment}", f"recipe={recipe}").data
    assert (data.short_side, data.crop_size) == sizes


@pytest.mark.slow
def test_crop_of_one_stage() -> None:
    cfg = compose_config(
        "train",
        "experiment=st_resnet_hmdb51",
        "data/crop@stages.motion.data.crop=random_resized",
        "stages.motion.data.crop.area=[0.5,1]",
    )
    crops = {stage: config["data"]["crop"] for stage, config in stage_configs(cfg).items()}
    assert crops["motion"]["area"] == [0.5, 1]
    assert "CornerJitterCrop" in crops["joint"]["_target_"]


def test_two_movers_keep_their_speed() -> None:
    configs = stage_configs(compose_config("train", "experiment=st_resnet_two_movers"))
    for config in configs.values():
        view = build_datamodule(config).train_view
        assert view.crop == CornerJitterCrop(56, 0)
        assert not view.hflip


@pytest.mark.slow
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
    assert ("debug" in cfg.paths.run_dir) == (cfg.show is None)
    instantiate(cfg.trainer, logger=False)
