"""What a stage is trained with, and when two stages are the same; nothing is built here."""

import copy
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from src.experiment.config import (
    StageConfig,
    cannot_matter,
    config_diff,
    stage_config,
    stage_configs,
    stage_names,
    what_matters,
)
from src.utils.errors import UserError
from tests.conftest import compose_config

PAPER = "experiment=st_resnet_hmdb51"
SMALL = "experiment=st_resnet_two_movers"


@cache  # tests of what leaves it as it is
def composed(*overrides: str) -> DictConfig:
    return compose_config("train", *overrides)


def made(stages: Mapping[str, Any], **whole: Any) -> DictConfig:
    """A config of stages with the keys that every config has."""
    model = {"net": {"_target_": "Net"}}
    common = {"run_stages": None, "skip_stages": None, "network": "net", "model": model}
    cfg = OmegaConf.create({**common, **whole, "stages": stages})
    OmegaConf.set_struct(cfg, True)
    return cfg


def flat(content: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Dotted keys of all leaves."""
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def with_value(config: StageConfig, key: str, value: Any) -> StageConfig:
    changed = copy.deepcopy(config)
    *parents, last = key.split(".")
    node = changed
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {}
        node = node[parent]
    node[last] = value
    return changed


class TestOverlay:
    def test_a_value_replaces_and_a_mapping_merges(self) -> None:
        cfg = made(
            {"a": {"lr": 2, "optimizer": {"_target_": "SGD", "momentum": 0.5}, "own": 1}, "b": {}},
            lr=1,
            optimizer={"_target_": "SGD", "momentum": 0.9, "decay": 0.1},
        )
        a, b = stage_config(cfg, "a"), stage_config(cfg, "b")
        assert a["stage"] == "a"
        assert "stages" not in a
        assert (a["lr"], a["own"], b["lr"]) == (2, 1, 1)
        assert a["optimizer"] == {"_target_": "SGD", "momentum": 0.5, "decay": 0.1}
        assert b["optimizer"] == {"_target_": "SGD", "momentum": 0.9, "decay": 0.1}
        assert "own" not in b

    @pytest.mark.parametrize("base", [{"_target_": "Step", "size": 1}, {"size": 1}, None])
    def test_a_mapping_with_another_target_replaces(self, base: Any) -> None:
        """Also within mappings that merge."""
        own = {"_target_": "Cosine", "warmup": 0.1}
        cfg = made(
            {"a": {"scheduler": own, "data": {"crop": own}}},
            scheduler=base,
            data={"crop": base, "split": 1},
        )
        config = stage_config(cfg, "a")
        assert config["scheduler"] == own
        assert config["data"] == {"crop": own, "split": 1}

    def test_without_a_target_it_merges_with_one(self) -> None:
        cfg = made({"a": {"crop": {"jitter": 0}}}, crop={"_target_": "Crop", "jitter": 1})
        assert stage_config(cfg, "a")["crop"] == {"_target_": "Crop", "jitter": 0}

    def test_null_replaces_and_is_replaced(self) -> None:
        cfg = made({"a": {"one": None, "two": {"x": 1}}}, one={"_target_": "One"}, two=None)
        config = stage_config(cfg, "a")
        assert config["one"] is None
        assert config["two"] == {"x": 1}

    def test_a_list_replaces(self) -> None:
        cfg = made({"a": {"milestones": [1], "init_from": "b"}}, milestones=[2, 3], init_from=[4])
        config = stage_config(cfg, "a")
        assert (config["milestones"], config["init_from"]) == ([1], "b")

    def test_interpolations_are_resolved_afterwards(self) -> None:
        """Absolute and relative ones, of the whole config and of the stage."""
        cfg = made(
            {"a": {"lr": 2, "scheduler": {"_target_": "Step", "milestones": "${..milestones}"}}},
            lr=1,
            milestones=[5],
            optimizer={"lr": "${lr}", "decay": "${.lr}"},
        )
        config = stage_config(cfg, "a")
        assert config["optimizer"] == {"lr": 2, "decay": 2}
        assert config["scheduler"]["milestones"] == [5]
        cfg.stages.a = {**cfg.stages.a, "milestones": [7]}
        assert stage_config(cfg, "a")["scheduler"]["milestones"] == [7]

    def test_what_is_interpolated_can_be_changed_in_one_place(self) -> None:
        """The network has a copy of its streams."""
        change = {"model": {"net": {"appearance": {"dropout": 0.5}}}}
        net = {"_target_": "Net", "appearance": "${model.appearance}"}
        model = {"appearance": {"_target_": "ResNet", "dropout": 0}, "net": net}
        found = stage_config(made({"a": change}, model=model), "a")["model"]
        assert found["net"]["appearance"] == {"_target_": "ResNet", "dropout": 0.5}
        assert found["appearance"] == {"_target_": "ResNet", "dropout": 0}

    @pytest.mark.parametrize("experiment", [PAPER, SMALL])
    def test_the_composed_config_is_left_as_it_is(self, experiment: str) -> None:
        cfg = composed(experiment)
        before = copy.deepcopy(cfg)
        for stage in stage_names(cfg):
            stage_config(cfg, stage)
            assert cfg == before
        assert OmegaConf.to_yaml(cfg) == OmegaConf.to_yaml(before)
        assert OmegaConf.is_struct(cfg)

    def test_what_comes_of_it_is_plain_and_its_own(self) -> None:
        cfg = composed(SMALL)
        config = stage_config(cfg, "joint")

        def check(node: Any) -> None:
            assert type(node) in (dict, list, str, int, float, bool, type(None))
            for part in node.values() if isinstance(node, dict) else node:
                if isinstance(part, dict | list):
                    check(part)
                assert not (isinstance(part, str) and "${" in part)

        check(config)
        config["data"]["dataset"]["root"] = "elsewhere"
        assert stage_config(cfg, "joint")["data"]["dataset"]["root"] != "elsewhere"

    def test_a_stage_s_crop_size_reaches_what_is_made_of_it(self) -> None:
        cfg = composed(PAPER, "+stages.joint.data.crop_size=112")
        assert stage_config(cfg, "joint")["data"]["crop"]["size"] == 112
        assert stage_config(cfg, "joint_pooled")["data"]["crop"]["size"] == 224

    def test_shipped_stages(self) -> None:
        motion, joint, pooled = (
            stage_config(composed(PAPER), name) for name in ("motion", "joint", "joint_pooled")
        )
        assert motion["model"]["motion"]["dropout"] == 0.8
        assert motion["data"]["crop"] == {
            "_target_": "src.data.transforms.MultiScaleCrop",
            "sides": [256, 224, 192, 168],
        }
        assert joint["data"]["crop"]["_target_"] == "src.data.transforms.CornerJitterCrop"
        assert joint["lr_scheduler"] == {
            "_target_": "torch.optim.lr_scheduler.MultiStepLR",
            "_partial_": True,
            "milestones": [30, 60],
            "gamma": 0.1,
        }
        assert joint["optimizer"]["momentum"] == 0.9
        assert (joint["optimizer"]["lr"], pooled["optimizer"]["lr"]) == (1e-3, 1e-4)
        assert joint["init_from"] == {"appearance": "appearance", "motion": "motion"}
        assert pooled["init_from"] == "joint"
        assert joint["model"]["net"]["temporal_pool"] is None
        assert pooled["model"]["net"]["temporal_pool"]["size"] == 5

    def test_milestones_of_a_stage_and_another_scheduler(self) -> None:
        cfg = composed(
            PAPER,
            "stages.joint.milestones=[20,30]",
            "lr_scheduler@stages.motion.lr_scheduler=warmup_cosine",
            "stages.appearance.lr_scheduler.gamma=0.2",
        )
        assert stage_config(cfg, "joint")["lr_scheduler"]["milestones"] == [20, 30]
        assert set(stage_config(cfg, "motion")["lr_scheduler"]) == {
            *("_target_", "_partial_", "warmup", "total_steps")
        }
        appearance = stage_config(cfg, "appearance")["lr_scheduler"]
        assert (appearance["gamma"], appearance["milestones"]) == (0.2, [20, 30])

    def test_a_model_without_the_stage_s_network(self) -> None:
        cfg = composed(PAPER, "stages.joint.network=fused")
        with pytest.raises(UserError, match=r"^stage joint trains model\.fused, which this model"):
            stage_config(cfg, "joint")


class TestStageNames:
    @pytest.mark.parametrize(
        ("overrides", "expected"),
        [
            ([], ["appearance", "motion", "joint", "joint_pooled"]),
            (["run_stages=joint"], ["joint"]),
            (["run_stages=[joint,appearance]"], ["appearance", "joint"]),
            (["skip_stages=motion"], ["appearance", "joint", "joint_pooled"]),
            (["run_stages=[motion,joint]", "skip_stages=[joint]"], ["motion"]),
            (
                ["run_stages=[]", "skip_stages=[]"],
                ["appearance", "motion", "joint", "joint_pooled"],
            ),
        ],
    )
    def test_chosen(self, overrides: list[str], expected: list[str]) -> None:
        cfg = composed(PAPER, *overrides)
        assert stage_names(cfg) == expected
        configs = stage_configs(cfg, [PAPER, *overrides])
        assert [config["stage"] for config in configs.values()] == list(configs) == expected

    @pytest.mark.parametrize(
        ("overrides", "refusal"),
        [
            (
                ["run_stages=fused"],
                "run_stages=fused: this experiment has the stages appearance, motion, ",
            ),
            (["skip_stages=[motion,last]"], "skip_stages=last: this experiment has the stages"),
            (
                ["run_stages=joint", "skip_stages=joint"],
                r"run_stages=\.\.\. and skip_stages=\.\.\. leave no stage to run",
            ),
        ],
    )
    def test_refused(self, overrides: list[str], refusal: str) -> None:
        with pytest.raises(UserError, match=refusal):
            stage_configs(composed(PAPER, *overrides))


class TestShadowed:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("overrides", "hint"),
        [
            (
                ["optimizer.lr=0.1"],
                "stages.appearance.optimizer.lr=0.1 stages.motion.optimizer.lr=0.1 "
                "stages.joint.optimizer.lr=0.1 stages.joint_pooled.optimizer.lr=0.1",
            ),
            (
                ["max_epochs=3", "run_stages=[motion,joint]"],
                "stages.motion.max_epochs=3 stages.joint.max_epochs=3",
            ),
            (["+data.batch_size=8", "run_stages=motion"], "stages.motion.data.batch_size=8"),
            (
                ["lr_scheduler=warmup_cosine", "run_stages=[motion,joint]"],
                "lr_scheduler@stages.motion.lr_scheduler=warmup_cosine "
                "lr_scheduler@stages.joint.lr_scheduler=warmup_cosine",
            ),
            (["data/crop=corner", "run_stages=motion"], "data/crop@stages.motion.data.crop=corner"),
            (
                ["+data.crop={sides:[99]}", "run_stages=motion"],
                "stages.motion.data.crop={sides:[99]}",
            ),
            (
                ["+model.motion.dropout=0.5", "run_stages=motion"],
                "stages.motion.model.motion.dropout=0.5",
            ),
        ],
    )
    def test_refused_with_what_works(self, overrides: list[str], hint: str) -> None:
        cfg = composed(PAPER, *overrides)
        shadowed = overrides[0].lstrip("+")
        key = re.escape(shadowed.replace("/", "."))
        with pytest.raises(UserError, match=f"^{key}: .* would not see it: give ") as error:
            stage_configs(cfg, [PAPER, *overrides])
        assert str(error.value).endswith(f": give {hint}")
        told = [PAPER, *overrides[1:], *hint.split(" ")]
        as_shipped = stage_configs(composed(PAPER, *overrides[1:]), told[:2])
        for name, config in stage_configs(composed(*told), told).items():
            assert config_diff(config, as_shipped[name])

    def test_it_says_whose(self) -> None:
        for only, whose in (("joint", "stage joint has"), ("[joint,motion]", "every stage has")):
            overrides = ["optimizer.lr=0.1", f"run_stages={only}"]
            with pytest.raises(UserError, match=f"{whose} its own, and would not see it"):
                stage_configs(composed(PAPER, *overrides), overrides)

    def test_an_argument_of_another_class_is_offered_to_no_stage(self) -> None:
        with pytest.raises(UserError, match="own lr_scheduler, which has no such key"):
            stage_configs(composed(PAPER), ["lr_scheduler.factor=0.5"])

    def test_not_refused(self) -> None:
        overrides = [
            "optimizer=adamw",
            "optimizer.weight_decay=0.5",
            "+trainer.gradient_clip_val=1",
            "trainer=ddp",
            "trainer.max_epochs=1",
            "data.split=2",
            "data/crop=corner",  # the motion stage has its own; the others see it
            "data.crop.jitter=0.5",
            "mixing=cutmix",
            "batch_norm=frozen",
            "model/backbone=resnet101",
            "model.backbone.depth=34",
            "stages.joint.optimizer.lr=0.1",
            "+stages.joint.data.crop_size=112",
            "lr_scheduler@stages.motion.lr_scheduler=warmup_cosine",
            "~stages.joint.lr_scheduler",
            "seed=3",
            "logger=csv",
            "debug=steps",
            "hydra.job.chdir=false",
        ]
        for only in ("run_stages=null", "run_stages=[motion,joint]"):
            told = [PAPER, *overrides, only]
            assert stage_configs(composed(*told), told)["joint"]["optimizer"]["weight_decay"] == 0.5

    def test_one_stage_that_sees_it_is_enough(self) -> None:
        override = "batch_norm=partial"
        own = "+stages.joint.batch_norm=frozen"
        cfg = composed(PAPER, override, own)
        assert stage_configs(cfg, [override, own])["motion"]["batch_norm"] == "partial"
        cfg = composed(PAPER, override, own, "run_stages=joint")
        with pytest.raises(UserError, match=r"give stages\.joint\.batch_norm=partial$"):
            stage_configs(cfg, [override, own])


def test_a_key_without_a_value_is_named_with_the_override_that_gives_it() -> None:
    chosen = "lr_scheduler@stages.joint.lr_scheduler=multistep"  # this stage has no milestones
    with pytest.raises(UserError, match=r"give stages\.joint\.lr_scheduler\.miles") as error:
        stage_config(composed(SMALL, chosen), "joint")
    key = re.search(r"give (\S+=)", str(error.value))
    assert key is not None
    config = stage_config(composed(SMALL, chosen, f"{key[1]}[2,3]"), "joint")
    assert config["lr_scheduler"]["milestones"] == [2, 3]
    with pytest.raises(UserError, match=r"stage joint: data\.crop_size has no value: give data\.c"):
        stage_config(composed(SMALL, "data.crop_size=???"), "joint")


MAY_DIFFER = {
    *("name", "notes", "num_sample_videos", "run_stages", "skip_stages", "resume", "show", "trial"),
    *("checkpoint_minutes", "compile", "optimizer.fused", "summary"),
    *(f"paths.{key}" for key in ("data_dir", "output_dir", "run_dir", "streams_dir")),
    *(f"logger.{key}" for key in ("csv._target_", "csv.name")),
    *(f"logger.tensorboard.{key}" for key in ("_target_", "name", "version")),
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy")),
    *(f"trainer.{key}" for key in ("benchmark", "log_every_n_steps", "enable_progress_bar")),
    *("data.dataset.root", "data.test.batch_size"),
    *(f"data.loader.{key}" for key in ("num_workers", "prefetch_factor", "timeout")),
    *(f"data.loader.{key}" for key in ("multiprocessing_context", "pin_memory")),
    *(f"data.videos.{key}" for key in ("_target_", "decoder", "cache_dir", "manifest")),
    *(f"data.videos.{key}" for key in ("missing", "max_unreadable_fraction")),
    *("callbacks.lr_monitor._target_", "callbacks.lr_monitor.logging_interval"),
}
PLACES = {"data.rgb", "data.flow"}


@pytest.fixture(scope="module")
def config() -> StageConfig:
    return stage_config(composed(SMALL), "joint")


class TestIdentity:
    def test_exactly_these_keys_may_differ(self, config: StageConfig) -> None:
        """Every key of a shipped config; of the model those that the stage does not train, too."""
        for key in flat(config):
            found = config_diff(with_value(config, key, "another"), config)
            trained = key.startswith(("model.net.", "model.normalize."))
            may = (
                key in MAY_DIFFER | PLACES
                or (key.startswith("model.") and not trained)
                or key.endswith("checkpointing")
            )
            if may:
                assert found is None, key
            elif key not in ("network",):  # another network's parts are then compared
                assert found is not None, key
                assert found.startswith(f"{key}: another, "), key
        assert set(flat(config)) >= MAY_DIFFER | PLACES

    @pytest.mark.parametrize(
        "key",
        [
            "trainer.profiler",
            "trainer.detect_anomaly",
            "trainer.strategy._target_",
            "trainer.strategy.broadcast_buffers",
            "logger",
            "logger.wandb.entity",
            "trial.number",
            "paths.scratch",
            "model.net.motion.gradient_checkpointing",
            "model.other.depth",
        ],
    )
    def test_these_may_be_added(self, config: StageConfig, key: str) -> None:
        assert config_diff(config, with_value(config, key, "another")) is None

    @pytest.mark.parametrize(
        "key",
        [
            "trainer.max_steps",
            "trainer.plugins",
            "trainer.gradient_clip_val",
            "callbacks.ema._target_",
            "data.new",
            "data.dataset.name",
            "model.net.new",
            "model.normalize.new",
            "optimizer.fused.new",
            "new",
            "new.inner",
        ],
    )
    def test_what_nobody_has_thought_of_counts(self, config: StageConfig, key: str) -> None:
        other = with_value(config, key, 1)
        assert config_diff(other, config) == f"{key}: 1, None"
        assert config_diff(config, other) == f"{key}: None, 1"
        assert config_diff(other, copy.deepcopy(other)) is None

    @pytest.mark.parametrize(
        ("override", "told"),
        [
            ("+trainer.max_steps=1", "trainer.max_steps: 1, None"),
            ("trainer.limit_test_batches=1", "trainer.limit_test_batches: 1, 1.0"),
            ("seed=1", "seed: 1, 0"),
            ("data.flow=on_the_fly", "data.flow: True, False"),
            ("model.backbone.width=16", "model.net.appearance.width: 16, 8"),
            ("stages.joint.init_from.motion=null", "init_from.motion: None, motion"),
            ("stages.joint.max_epochs=17", "max_epochs: 17, 16"),
        ],
    )
    def test_what_is_told(self, config: StageConfig, override: str, told: str) -> None:
        other = stage_config(composed(SMALL, override), "joint")
        assert config_diff(other, config) == told
        assert config_diff(config, other) is not None

    def test_these_are_the_same_stage(self) -> None:
        cfg = composed(
            *(PAPER, "trainer=ddp", "logger=csv", "debug=summary", "compile=default"),
            *("data.flow=/elsewhere/flow.zip", "data.rgb=/elsewhere/frames"),
            *("data.dataset.root=/elsewhere", "data.dataset.videos=/videos"),
            *("data.dataset.lists=/lists", "paths.output_dir=/elsewhere"),
            *("model.backbone.gradient_checkpointing=true", "optimizer.fused=true"),
            "+stages.motion.model.appearance.dropout=0.1",  # not what it trains
        )
        for stage in ("motion", "joint"):
            one, other = stage_config(cfg, stage), stage_config(composed(PAPER), stage)
            assert one != other
            assert config_diff(one, other) is None

    def test_a_whole_number_is_no_fraction(self, config: StageConfig) -> None:
        """One batch is not all batches."""
        one, every = (with_value(config, "trainer.limit_train_batches", x) for x in (1, 1.0))
        assert config_diff(one, every) == "trainer.limit_train_batches: 1, 1.0"
        one, other = (with_value(config, "init_from", x) for x in ([1, False], [1, 0]))
        assert config_diff(one, other) == "init_from: [1, False], [1, 0]"

    def test_only_the_trained_network_counts(self) -> None:
        """Streams are shared by runs that join them in other ways."""
        ways = [
            composed(SMALL, f"model.net.connection.kind={kind}")
            for kind in ("additive", "multiplicative")
        ]
        for stage in ("appearance", "motion"):
            one, other = (stage_config(cfg, stage) for cfg in ways)
            assert config_diff(one, other) is None
        one, other = (stage_config(cfg, "joint") for cfg in ways)
        assert config_diff(one, other) == "model.net.connection.kind: additive, multiplicative"

    def test_flow_computed_on_the_fly_is_no_place(self, config: StageConfig) -> None:
        one, other = (with_value(config, "data.flow", flow) for flow in ("a", "b"))
        computed = with_value(config, "data.flow", "on_the_fly")
        assert config_diff(one, other) is None
        assert config_diff(one, computed)
        assert config_diff(computed, copy.deepcopy(computed)) is None

    def test_another_stage_is_another(self, config: StageConfig) -> None:
        pooled = stage_config(composed(SMALL), "joint_pooled")
        assert config_diff(config, pooled) == "stage: joint, joint_pooled"

    def test_keys_are_dotted(self, config: StageConfig) -> None:
        found = what_matters(config)
        assert found["data.dataset.seed"] == 0
        assert found["model.net.connection.stages"] == [1, 2, 3, 4]
        assert found["data.flow"] is False
        assert not any(key.startswith(("paths.", "logger.", "stages.")) for key in found)
        assert cannot_matter("logger")
        assert cannot_matter("data/videos/decoder")
        assert not cannot_matter("trainer.precision")


def test_what_an_interpolation_points_to_is_not_changed_by_an_overlay() -> None:
    cfg = OmegaConf.create(
        {
            "model": {
                "a": {"part": {"_target_": "old", "old": 1}, "width": 4},
                "net": {"a": "${model.a}"},
            },
            "stages": {
                "s": {"network": "net", "model": {"net": {"a": {"part": {"_target_": "x"}}}}}
            },
        }
    )
    config = stage_config(cfg, "s")
    assert config["model"]["net"]["a"] == {"part": {"_target_": "x"}, "width": 4}
    assert config["model"]["a"] == {"part": {"_target_": "old", "old": 1}, "width": 4}
