"""The LightningModules in a real Trainer, and their numbers against sums done by hand."""

import json
import math
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau
from torch.testing import assert_close
from torch.utils.data import DataLoader
from torchmetrics import Metric

from src.evaluation.protocol import TestProtocol
from src.models.modules import Batch, JointModule, StreamModule, VideoClassifier
from src.models.normalize import Normalize
from src.models.optimization import LrMultipliers, Mixing, Optimization, warmup_cosine
from src.models.resnet import appearance_stream, motion_stream
from src.models.two_stream import TwoStreamResNet

CLASSES, STACK, FRAMES, SIDE = 3, 2, 2, 32
MULTIPLIERS = {"weight": 1.0, "bias": 2.0, "bn_weight": 2.0, "bn_bias": 1.0}
KINDS = ("rgb", "flow", "joint")


def build(kind: str, hflip: bool = True, **choices: Any) -> VideoClassifier:
    """A small module that is trained with constant rates, or what the choices say."""
    rgb, flow = appearance_stream(CLASSES, 26, 4), motion_stream(CLASSES, STACK, 26, 4)
    optimization: dict[str, Any] = {
        "optimizer": partial(torch.optim.SGD, momentum=0.9, weight_decay=5e-4),
        "lr": 0.02,
        "lr_multipliers": LrMultipliers(**MULTIPLIERS),
    }
    arguments: dict[str, Any] = {
        "normalize": Normalize(),
        "num_classes": CLASSES,
        "protocol": TestProtocol(FRAMES, SIDE, SIDE, hflip=hflip),
        "optimization": Optimization(**optimization | choices),
    }
    if kind == "joint":
        return JointModule(TwoStreamResNet(rgb, flow), **arguments)
    return StreamModule(kind, rgb if kind == "rgb" else flow, **arguments)


def random_batch(names: str = "abcd") -> Batch:
    size = (FRAMES, SIDE, SIDE)
    return {
        "rgb": torch.randint(0, 256, (len(names), 3, *size), dtype=torch.uint8),
        "flow": torch.randint(0, 256, (len(names), 2 * STACK, *size), dtype=torch.uint8),
        "label": torch.arange(len(names)) % CLASSES,
        "video": list(names),
    }


def trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def loader(batches: list[Batch]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def logits_by_hand(module: VideoClassifier, batch: Batch, hflip: bool = False) -> dict[str, Tensor]:
    """Logits (B, T, K) of each stream, from uint8 on without the module's help."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    rgb = ((batch["rgb"] / 255).movedim(1, -1) - mean) / std
    rgb = rgb.movedim(-1, 1)
    flow = batch["flow"].float()
    if hflip:
        rgb, flow = rgb.flip(-1), flow.flip(-1)
        flow[:, ::2] = 255 - flow[:, ::2]  # u; v stays
    flow = (flow - 128) / 57.63
    net = deepcopy(module.net)  # batch norm counts what it sees
    if isinstance(module, JointModule):
        return dict(zip(("appearance", "motion"), net(rgb, flow), strict=True))
    assert isinstance(module, StreamModule)
    return {module.modality: net({"rgb": rgb, "flow": flow}[module.modality])}


def loss_by_hand(module: VideoClassifier, batch: Batch, smoothing: float = 0.0) -> float:
    """Sum over streams of the mean over clips and time of -log softmax."""
    total = 0.0
    with torch.no_grad():
        streams = logits_by_hand(module, batch)
    for logits in streams.values():
        terms = []
        for clip, label in zip(logits.double(), batch["label"], strict=True):
            for step in clip:
                surprise = (step - step.max()).exp().sum().log() + step.max() - step
                mean = surprise.sum() / CLASSES
                terms.append(float((1 - smoothing) * surprise[label] + smoothing * mean))
        total += sum(terms) / len(terms)
    return total


@dataclass
class Record(pl.Callback):
    """The loss of every batch, and the rates of every update."""

    losses: list[float] = field(default_factory=list)
    rates: list[dict[str, float]] = field(default_factory=list)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.losses.append(outputs["loss"].item())

    def on_before_optimizer_step(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})


@pytest.mark.parametrize("kind", KINDS)
def test_a_fixed_batch_is_learnt(kind: str) -> None:
    module, batch, record = build(kind), random_batch(), Record()
    expected = loss_by_hand(module, batch)
    runner = trainer(max_epochs=2, callbacks=[record])
    runner.fit(module, loader([batch] * 8), loader([batch]))
    assert record.losses[0] == pytest.approx(expected, rel=1e-4)
    assert record.losses[-1] < expected / 2
    logged = {name: value.item() for name, value in runner.callback_metrics.items()}
    by_hand = loss_by_hand(module.eval(), batch)
    assert logged["val/loss"] == pytest.approx(by_hand, rel=1e-4)
    streams = {name for name in logged if name.startswith("val/loss_")}
    assert len(streams) == (2 if kind == "joint" else 0)
    assert not streams or sum(logged[name] for name in streams) == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_smoothed_in_training_only(kind: str) -> None:
    module, batch, record = build(kind, label_smoothing=0.3), random_batch(), Record()
    smoothed, plain = loss_by_hand(module, batch, 0.3), loss_by_hand(module, batch)
    assert smoothed != pytest.approx(plain, rel=1e-3)
    runner = trainer(max_epochs=1, callbacks=[record])
    runner.fit(module, loader([batch]), loader([batch]))
    assert record.losses == [pytest.approx(smoothed, rel=1e-4)]
    logged = runner.callback_metrics["val/loss"].item()
    assert logged == pytest.approx(loss_by_hand(module.eval(), batch), rel=1e-4)


def test_soft_targets_by_hand() -> None:
    """Both time steps count alike, and both streams."""
    even, sure = [0.0, 0.0, 0.0], [math.log(8), 0.0, 0.0]  # 1/3 each; 0.8, 0.1, 0.1
    logits = {"appearance": torch.tensor([[even, sure]]), "motion": torch.tensor([[sure, sure]])}
    losses = build("joint").loss(logits, torch.tensor([[0.75, 0.25, 0.0]]))
    of_sure = -0.75 * math.log(0.8) - 0.25 * math.log(0.1)
    assert losses["appearance"].item() == pytest.approx((math.log(3) + of_sure) / 2)
    assert losses["motion"].item() == pytest.approx(of_sure)


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_clips_have_mixed_targets(kind: str) -> None:
    """One clip of each class, all mixed half and half with the one before."""

    class Half(Mixing):
        def __call__(
            self, clips: dict[str, Tensor], label: Tensor, num_classes: int
        ) -> tuple[dict[str, Tensor], Tensor]:
            mixed = {name: (clip + clip.roll(1, 0)) / 2 for name, clip in clips.items()}
            return mixed, torch.tensor([[0.5, 0, 0.5], [0.5, 0.5, 0], [0, 0.5, 0.5]])

    module, batch, record = build(kind, mixing=Half(1.0)), random_batch("abc"), Record()
    twin = deepcopy(module)
    runner = trainer(max_epochs=1, callbacks=[record])
    runner.fit(module, loader([batch]), loader([batch]))
    clips = {name: (clip + clip.roll(1, 0)) / 2 for name, clip in twin.clips(batch).items()}
    with torch.no_grad():
        logs = [x.log_softmax(-1).mean(1) for x in twin.classify(clips).values()]
    expected = sum(-float(x[i, i] + x[i, i - 1]) / 2 for x in logs for i in range(3)) / 3
    assert record.losses == [pytest.approx(expected, rel=1e-4)]
    names = set(runner.callback_metrics)
    assert "val/clip/top1" in names
    assert not any(name.startswith("train/clip") for name in names)


def constant(_: int) -> float:
    return 0.1


def multistep(update: int) -> float:
    return 0.1 if update < 3 else 0.01


def warmed_up(update: int) -> float:
    if update < 3:  # a quarter of twelve updates
        return 0.1 * (0.01 + 0.99 * update / 3)
    return 0.1 * math.cos(math.pi / 2 * (update - 3) / 9) ** 2


@pytest.mark.parametrize(
    ("scheduler", "interval", "expected"),
    [
        (None, "epoch", constant),
        (partial(MultiStepLR, milestones=[1], gamma=0.1), "epoch", multistep),
        (partial(warmup_cosine, total_steps=12, warmup=0.25), "step", warmed_up),
    ],
)
def test_rates_follow_the_scheduler(
    scheduler: Any, interval: str, expected: Callable[[int], float]
) -> None:
    record = Record()
    # An epoch is 3 updates of 2 batches; cutting a training short does not hurry its scheduler.
    runner = trainer(max_epochs=2, accumulate_grad_batches=2, callbacks=[record])
    module = build("flow", lr=0.1, lr_scheduler=scheduler, lr_interval=interval)
    runner.fit(module, loader([random_batch("ab")] * 6))
    assert len(record.rates) == 6
    for update, rates in enumerate(record.rates):
        rate = expected(update)
        assert rates == pytest.approx({kind: rate * by for kind, by in MULTIPLIERS.items()}), update


def test_a_scheduler_may_follow_the_validation_loss() -> None:
    record = Record()
    # Nothing is as much better as it asks for, after the first epoch.
    scheduler = partial(ReduceLROnPlateau, patience=0, threshold=1e9, threshold_mode="abs")
    runner = trainer(max_epochs=4, callbacks=[record])
    batches = loader([random_batch("ab")])
    runner.fit(build("flow", lr=0.1, lr_scheduler=scheduler), batches, batches)
    assert [rates["bias"] for rates in record.rates] == pytest.approx([0.2, 0.2, 0.02, 0.002])


def test_a_module_that_is_not_trained() -> None:
    """What evaluation builds gives the same scores."""
    trained = build("flow").eval()
    net = motion_stream(CLASSES, STACK, 26, 4)
    net.load_state_dict(trained.net.state_dict())
    known: dict[str, Any] = {"num_classes": CLASSES, "protocol": trained.protocol}
    module = StreamModule("flow", net, normalize=Normalize(), **known).eval()
    assert module.lr is None
    batch = random_batch()
    with torch.no_grad():
        assert_close(module.video_scores(batch), trained.video_scores(batch))


@torch.no_grad()
@pytest.mark.parametrize("hflip", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_video_scores_average_time_and_mirror(kind: str, hflip: bool) -> None:
    module, batch = build(kind, hflip=hflip).eval(), random_batch()
    views = [logits_by_hand(module, batch, flip) for flip in ([False, True] if hflip else [False])]
    scores = module.video_scores(batch)
    assert len(scores) == len(views[0])
    for stream, found in zip(views[0], scores.values(), strict=True):
        expected = torch.cat([view[stream] for view in views], dim=1).mean(1)
        assert_close(found, expected, rtol=1e-4, atol=1e-5)


def scores_and_top1(
    module: VideoClassifier, batches: list[Batch]
) -> tuple[dict[str, Tensor], float]:
    """Scores by video, and the top-1 accuracy that is logged."""
    scores: dict[str, Tensor] = {}

    class Collect(pl.Callback):
        def on_test_batch_end(self, *hook: Any) -> None:
            outputs = hook[2]
            scores.update(zip(outputs["video"], outputs["scores"], strict=True))

    runner = trainer(callbacks=[Collect()])
    runner.test(module, loader(batches), verbose=False)
    return scores, runner.callback_metrics["test/video/top1"].item()


def test_scores_belong_to_their_videos_in_whatever_order() -> None:
    module, batch = build("joint").eval(), random_batch("abcdefg")

    def part(*places: int) -> Batch:
        names = [batch["video"][place] for place in places]
        return {name: values[list(places)] for name, values in batch.items() if name != "video"} | {
            "video": names
        }

    scores, top1 = scores_and_top1(module, [part(0, 1, 2, 3), part(4, 5, 6)])
    shuffled, same_top1 = scores_and_top1(module, [part(5, 3, 0), part(6, 1), part(2, 4)])
    assert set(scores) == set("abcdefg")
    assert_close(shuffled, scores)
    with torch.no_grad():
        streams = module.video_scores(batch)
    mean = (streams["appearance"] + streams["motion"]) / 2
    assert_close([scores[video] for video in batch["video"]], list(mean))
    assert top1 == same_top1 == pytest.approx((mean.argmax(1) == batch["label"]).double().mean())


def test_balanced_weights_by_hand() -> None:
    """N / (K * n_class), as sklearn's; a class without videos is none of the K."""
    module = build("rgb", class_weights="balanced")
    module.weigh_classes([0, 0, 0, 1, 1, 2])
    assert module.weight_of_class is not None
    assert module.weight_of_class.tolist() == pytest.approx([6 / 9, 6 / 6, 6 / 3])
    module.weigh_classes([0, 0, 0, 2])
    assert module.weight_of_class.tolist() == pytest.approx([4 / 6, 0, 4 / 2])
    assert "weight_of_class" not in module.state_dict()


def test_given_weights_have_a_mean_of_1_over_the_training_list() -> None:
    module = build("rgb", class_weights=[1, 2, 5])
    module.weigh_classes([0, 0, 1, 2, 2])
    assert module.weight_of_class is not None
    assert module.weight_of_class.tolist() == pytest.approx([5 / 14, 10 / 14, 25 / 14])
    assert build("rgb").weight_of_class is None


def test_weighted_losses_by_hand() -> None:
    """A class's weight factors its term, of labels as of shares; the mean is over clips."""
    module = build("rgb", class_weights=[1, 2, 3], label_smoothing=0.3)
    module.weigh_classes([0, 1, 2])  # a mean of 2
    weights = [0.5, 1.0, 1.5]
    surprise = [math.log(10 / 8), math.log(10), math.log(10)]
    logits = {"appearance": torch.tensor([0.8, 0.1, 0.1]).log().expand(2, 4, 3)}
    shares = {0: [0.8, 0.1, 0.1], 2: [0.1, 0.1, 0.8]}  # smoothed
    by_hand = [sum(map(math.prod, zip(weights, shares[y], surprise, strict=True))) for y in shares]
    loss = module.loss(logits, torch.tensor([0, 2]), training=True)["appearance"]
    assert loss.item() == pytest.approx(sum(by_hand) / 2)
    mixed = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
    of_mixed = module.loss(logits, mixed, training=True)["appearance"]
    assert of_mixed.item() == pytest.approx(loss.item())
    plain = build("rgb").loss(logits, torch.tensor([0, 2]), training=True)["appearance"].item()
    assert plain == pytest.approx((surprise[0] + surprise[2]) / 2)


def test_parts_of_a_batch_are_weighted_like_the_batch() -> None:
    """torch divides by the weights of the labels, and gives these parts different shares."""
    module, logits = build("rgb", class_weights=[1, 2, 9]), torch.randn(4, 2, CLASSES)
    module.weigh_classes([0, 1, 2])
    label = torch.tensor([0, 0, 1, 2])

    def loss(part: slice) -> float:
        return module.loss({"": logits[part]}, label[part], training=True)[""].item()

    halves = (loss(slice(2)) + loss(slice(2, 4))) / 2
    assert loss(slice(4)) == pytest.approx(halves)


def test_classes_are_weighted_in_training_only() -> None:
    module, batch, record = build("rgb", class_weights=[1, 1, 30]), random_batch("abc"), Record()
    module.weigh_classes([0, 1, 2])
    plain = loss_by_hand(module, batch)
    runner = trainer(max_epochs=1, callbacks=[record])
    runner.fit(module, loader([batch]), loader([batch]))
    assert record.losses[0] != pytest.approx(plain, rel=1e-2)
    logged = runner.callback_metrics["val/loss"].item()
    assert logged == pytest.approx(loss_by_hand(module.eval(), batch), rel=1e-4)


@pytest.mark.parametrize("weights", ["equal", [1, 2], [1, 2, 0], [1, 2, -1], [1, 2, math.inf], 3])
def test_class_weights_that_are_none_are_refused(weights: Any) -> None:
    refused = (
        rf"class_weights={re.escape(str(weights))}: needs null, balanced, or 3 numbers above 0"
    )
    with pytest.raises(ValueError, match=refused):
        build("rgb", class_weights=weights)


def test_other_modalities_are_refused() -> None:
    with pytest.raises(ValueError, match="modality 'depth': choose rgb or flow"):
        build("depth")


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing=1\.0: needs a share"):
        build("rgb", label_smoothing=1.0)
    with pytest.raises(ValueError, match="batch_norm=thawed: choose from train, frozen, partial"):
        build("rgb", batch_norm="thawed")


def test_normalize() -> None:
    normalize = Normalize((10, 20, 30), (1, 2, 4), flow_mean=128, flow_std=2)
    pixels = torch.tensor([0, 255], dtype=torch.uint8)
    rgb = normalize.rgb(pixels.expand(1, 3, 1, 1, 2))
    assert rgb.dtype == torch.float32
    assert rgb.squeeze().tolist() == [[-10, 245], [-10, 117.5], [-7.5, 56.25]]
    flow = normalize.flow(pixels.expand(1, 4, 1, 1, 2))
    assert flow.dtype == torch.float32
    assert flow.squeeze().tolist() == [[-64, 63.5]] * 4
    assert normalize.half().rgb(pixels.expand(1, 3, 1, 1, 2)).dtype == torch.float16
    assert normalize.state_dict() == {}


def test_a_described_normalization_can_be_built_again() -> None:
    described = Normalize(rgb_mean=(1, 2, 3), flow_std=20).describe()
    assert described["rgb_mean"] == [1, 2, 3]
    assert described["rgb_std"] == pytest.approx([58.395, 57.12, 57.375])
    assert (described["flow_mean"], described["flow_std"]) == (128, 20)
    again: dict[str, Any] = json.loads(json.dumps(described))
    assert Normalize(**again).describe() == described


def on_fake_gpu(module: VideoClassifier) -> VideoClassifier:
    """The module as if it were on a GPU: its tensors have a size and a device, but no content."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = torch.empty_like(parameter, device="cuda")
                part._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty_like(buffer, device="cuda")
        if isinstance(part, Metric):
            for name, state in part._defaults.items():
                assert isinstance(state, Tensor)
                setattr(part, name, torch.empty_like(state, device="cuda"))
    return module


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="torch knows no GPUs here")
@pytest.mark.parametrize("kind", ["rgb", "joint"])
def test_no_step_waits_for_a_gpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed on another device, and nothing on the host depends on a result."""
    for name in ("log", "log_dict"):
        monkeypatch.setattr(VideoClassifier, name, lambda *_, **__: None)
    monkeypatch.setattr(VideoClassifier, "_weight", lambda *_: 1.0)  # it asks the trainer
    module = build(kind)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_fake_gpu(module)
        batch = {
            name: torch.empty_like(values, device="cuda") if isinstance(values, Tensor) else values
            for name, values in random_batch().items()
        }
        assert module.training_step(batch, 0).device.type == "cuda"
        with torch.no_grad():
            module.eval().validation_step(batch, 0)
            assert module.test_step(batch, 0)["scores"].device.type == "cuda"
