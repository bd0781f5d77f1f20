"""Checkpoints whose config asks for more than constructors of networks and their data."""

import contextlib
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from src import evaluate, fuse, predict
from src.evaluation.evaluate import load_module
from src.experiment.build import built_without_training
from src.experiment.config import StageConfig, stage_config, stage_configs
from src.experiment.run_dir import stage_dirs
from src.models.resnet import ResNet, motion_stream
from src.models.trust import check_size, check_trusted
from src.training.checks import check_stages
from src.utils.errors import UserError
from tests.conftest import compose_config

Hostile = Callable[[Path], Any]  # makes the file that it is given, if it is built


def save(marker: Path) -> dict[str, Any]:
    """Writes the marker when it is instantiated; Hydra's own list of refusals does not have it."""
    return {"_target_": "torch.save", "obj": 1, "f": str(marker)}


def hidden_in_text(marker: Path) -> str:
    return f"${{oc.create:{{_target_:torch.save,obj:1,f:'{marker}'}}}}"


HOSTILE: dict[str, Hostile] = {
    "plain": save,
    "in a list": lambda marker: [[save(marker)]],
    "in a tuple": lambda marker: [(save(marker),)],
    "in an interpolation": hidden_in_text,
    "in the target": lambda marker: save(marker) | {"_target_": "${oc.decode:torch.save}"},
    "in positional arguments": lambda marker: {
        "_target_": "src.models.temporal.TemporalPool",
        "_args_": [save(marker), 1],
    },
    "by a function of ours": lambda marker: {
        "_target_": "src.data.verification.verify.verify",
        "manifest": str(marker),
    },
}


@pytest.mark.parametrize("where", HOSTILE)
def test_hidden_calls_are_refused(where: str, tmp_path: Path) -> None:
    marker = tmp_path / "harm"
    node = HOSTILE[where](marker)
    with pytest.raises(UserError, match=r"^bad.ckpt (asks to call|has a tuple|has .\$\{)"):
        check_trusted(
            {"net": {"_target_": "src.models.normalize.Normalize", "x": node}}, "bad.ckpt"
        )
    if "ours" not in where:
        with contextlib.suppress(InstantiationException):  # after the harm
            instantiate({"x": node})
        assert marker.exists()  # it was hostile


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "torch.load",
        "torch.optim.swa_utils.AveragedModel",
        "torch.optim.sgd.sgd",
        "torch.optim.SGD",  # nothing is trained that comes out of a checkpoint
        "torch.optim.lr_scheduler.MultiStepLR",
        "src.utils.processes.worker_pool",
        "src.evaluation.protocol.pl.Trainer",
        "src.evaluation.protocol.LogProtocol",
        "src.flow.settings.FlowSettings.load",
        "src.data.stores.Path",
        "src.media.image_index.save",
        "src.media.image_index.load_json",
        "src.data.verification.look_cache.LookCache",
        "src.data.splits._split",
        "src.models.weights.torch.load",  # what a module of ours has imported is not ours
        "src.models.weights.read_checkpoint",
        "src.models.optimization.warmup_cosine",
        "src.models.optimization.parameter_groups",
        "src.experiment.build.build_net",
        "src.models.gone.Net",
        ".",
        7,
    ],
)
def test_a_config_may_call_constructors_of_its_parts_only(target: Any) -> None:
    with pytest.raises(UserError, match=f"this checkpoint asks to call {target}, "):
        check_trusted({"protocol": {"_target_": target}})


def test_a_config_without_an_end() -> None:
    node: list[Any] = []
    node.append(node)
    with pytest.raises(UserError, match="without an end"):
        check_trusted({"net": node})


def nested(levels: int) -> list[Any]:
    """A list that holds another twice, and so on: few bytes, and 2 ** levels values."""
    node: list[Any] = []
    for _ in range(levels):
        node = [node, node]
    return node


@pytest.mark.parametrize("node", [nested(28), {"a": "x" * 2_000_001}, [*range(2_000_001)]])
def test_a_description_that_is_too_large(node: Any) -> None:
    with pytest.raises(UserError, match=r"bad.ckpt describes itself in more than 2,000,000 values"):
        check_size(node, "bad.ckpt")
    check_size(nested(8), "bad.ckpt")


@pytest.mark.parametrize(
    "choices",
    [
        "experiment=st_resnet_hmdb51",
        "experiment=st_multiplier_ucf101",
        "experiment=st_resnet_two_movers",
        "experiment=st_resnet_ucf101 mixing=mixup optimizer=adamw "
        "data/sampler=segments data/crop=multi_scale data/augment=color_jitter",
        "experiment=st_resnet_ucf101 mixing=cutmix optimizer=sgd_nesterov protocol=ten_crops "
        "data/sampler=dense data/crop=random_resized",
        "experiment=motion_ucf101 model/backbone=resnet50_caffe",
    ],
)
def test_what_experiments_choose_is_trusted(choices: str) -> None:
    for config in stage_configs(compose_config("train", *choices.split())).values():
        check_trusted(built_without_training(config))


def test_a_transform_of_torchvision_is_trusted() -> None:
    blur = {"_target_": "torchvision.transforms.v2.GaussianBlur", "kernel_size": 5}
    target = "torchvision.transforms.v2.Compose"
    check_trusted({"augment": {"_target_": target, "transforms": [blur]}})


def test_training_tells_that_its_checkpoints_will_be_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cfg = compose_config("train", "experiment=motion_two_movers")
    config, dirs = stage_config(cfg, "motion"), stage_dirs(cfg)
    check_stages({"motion": config}, dirs)
    assert "refuse" not in caplog.text
    config["model"]["motion"]["_target_"] = "tests.models.test_trust.elsewhere"
    check_stages({"motion": config}, dirs)
    assert "stage motion asks to call tests.models.test_trust.elsewhere" in caplog.text


def elsewhere(**options: Any) -> ResNet:
    return motion_stream(**options)


def changed(finished_run: Path, path: Path, **entries: Any) -> Path:
    """A copy of a real checkpoint with other entries in its description."""
    content = torch.load(finished_run / "motion" / "last.ckpt", weights_only=True)
    content["experiment"] |= entries
    torch.save(content, path)
    return path


def config_in(finished_run: Path) -> StageConfig:
    """The config in a real checkpoint."""
    content = torch.load(finished_run / "motion" / "last.ckpt", weights_only=True)
    config: StageConfig = content["experiment"]["config"]
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("main", "place", "arguments"),
    [
        (evaluate.main, "model.motion", "ckpt_path={file}"),
        (evaluate.main, "model.normalize", "ckpt_path={file}"),
        (evaluate.main, "data", "ckpt_path={file}"),
        (predict.main, "module", "ckpt_path={file} input={videos}"),
        (fuse.main, "protocol", "inputs=[{file},{file}]"),
    ],
)
def test_commands_build_nothing_hostile(
    main: Callable[[], None],
    place: str,
    arguments: str,
    call: Callable[..., int],
    finished_run: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = config_in(finished_run)
    part: dict[str, Any] = reduce(getitem, place.split("."), config)
    part["extra"] = [save(tmp_path / "harm")]
    file = changed(finished_run, tmp_path / "bad.ckpt", config=config)
    (tmp_path / "a.mp4").touch()
    filled = arguments.format(file=file, videos=tmp_path / "a.mp4")
    assert call(main, *filled.split()) == 1
    error = capfd.readouterr().err
    assert f"error: {file} asks to call torch.save, which is not of this project\n" in error
    assert "Traceback" not in error
    assert not (tmp_path / "harm").exists()


def test_what_a_checkpoint_was_trained_with_is_not_built(
    call: Callable[..., int], finished_run: Path, tmp_path: Path
) -> None:
    """Whatever its training may have called, to evaluate it calls none of that."""
    harm = save(tmp_path / "harm")
    config = config_in(finished_run)
    for place in ("optimizer", "lr_scheduler", "mixing", "callbacks", "trainer", "logger", "more"):
        config[place] = harm | {"x": [harm]}
    config["model"] |= {"net": harm, "appearance": harm, "backbone": harm}
    file = changed(finished_run, tmp_path / "own.ckpt", config=config)
    assert call(evaluate.main, f"ckpt_path={file}", "trainer.accelerator=cpu") == 0
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"config": []}, "no readable 'experiment' entry"),
        ({"class_names": 8}, "no readable 'experiment' entry"),
        ({"flow": {"algorithm": "dis", "depth": 2}}, "no readable 'experiment' entry"),
        ({"flow": {"parameters": "abc"}}, "no readable 'experiment' entry"),
        ({"class_names": [*range(8)]}, "no readable 'experiment' entry"),
        ({"flow": {"algorithm": "magic"}}, "no flow algorithm 'magic'"),
        ({"more": 1}, "no readable 'experiment' entry"),
        ({"config": {}}, "its network and data cannot be built: KeyError: 'model'"),
        ({"class_names": ["one"]}, "names 1 of 8 classes"),
        ({"class_names": ["x" * 1001] * 8}, "no readable 'experiment' entry"),
        ({"normalization": {"x": nested(28)}}, "describes itself in more than 2,000,000 values"),
    ],
)
def test_a_garbled_description_is_one_line(
    entries: dict[str, Any],
    reason: str,
    call: Callable[..., int],
    finished_run: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = changed(finished_run, tmp_path / "bad.ckpt", **entries)
    assert call(evaluate.main, f"ckpt_path={file}") == 1
    error = capfd.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("part", "key", "value", "reason"),
    [
        ("normalize", "flWw_std", 1.0, "got an unexpected keyword argument 'flWw_std'"),
        ("data", "batch_size", "many", "batch_size"),
        ("data", "frame_stride", [5, 1], "frame_stride"),
        ("motion", "depth", 51, "51"),
    ],
)
def test_a_checkpoint_whose_config_cannot_be_built_is_named(
    part: str, key: str, value: Any, reason: str, finished_run: Path, tmp_path: Path
) -> None:
    """By those who open it in Python, too, and not only by commands."""
    config = config_in(finished_run)
    (config if part == "data" else config["model"])[part][key] = value
    file = changed(finished_run, tmp_path / "bad.ckpt", config=config)
    with pytest.raises(UserError, match=rf"bad\.ckpt: its network and data .*{reason}"):
        load_module(str(file))


def test_a_network_is_not_built_larger_than_its_weights(
    call: Callable[..., int],
    finished_run: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = config_in(finished_run)
    config["model"]["motion"]["num_classes"] = config["model"]["net"] = 2_000_000_000
    file = changed(finished_run, tmp_path / "huge.ckpt", config=config)
    assert call(evaluate.main, f"ckpt_path={file}") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "huge.ckpt does not fit its own config: fc.weight is (8, " in line


def test_a_checkpoint_makes_nothing_and_takes_no_more_than_it_should(
    call: Callable[..., int],
    finished_run: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Neither the data that it names, nor indices of them; nor memory for a thousand videos."""
    config = config_in(finished_run)
    config["data"]["dataset"]["root"] = str(tmp_path / "made")
    config["data"]["videos"]["cache_dir"] = str(tmp_path / "indices")
    config["data"]["loader"] |= {"num_workers": 5000, "prefetch_factor": 10**9}
    file = changed(finished_run, tmp_path / "elsewhere.ckpt", config=config)
    assert call(evaluate.main, f"ckpt_path={file}") == 1
    assert f"two_movers is not in {tmp_path / 'made'}: " in capfd.readouterr().err
    root = config_in(finished_run)["data"]["dataset"]["root"]
    assert call(evaluate.main, f"ckpt_path={file}", f"+data.dataset.root={root}") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere.ckpt", "evaluation"}
    capfd.readouterr()

    config["data"]["test"] |= {"batch_size": 1000, "frames": 1000}
    file = changed(finished_run, tmp_path / "greedy.ckpt", config=config)
    assert call(evaluate.main, f"ckpt_path={file}") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "GiB of videos at a time (data.test.batch_size=1000, data.test.frames=1000" in line


def test_scores_that_are_no_numbers_are_the_networks(
    call: Callable[..., int],
    finished_run: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Weights may be finite, and what comes of them not: no video is unreadable for that."""
    content = torch.load(finished_run / "motion" / "last.ckpt", weights_only=True)
    content["state_dict"]["net.conv1.weight"].fill_(3e38)
    torch.save(content, tmp_path / "large.ckpt")
    assert call(evaluate.main, f"ckpt_path={tmp_path / 'large.ckpt'}") == 1
    assert "the motion classifier gives scores that are not finite" in capfd.readouterr().err
