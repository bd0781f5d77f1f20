"""Options of speed: the same weights, names and checkpoints, faster; mistakes found early."""

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend
from torch.testing import assert_close

from src import evaluate
from src.evaluation.scores import VideoScores
from src.experiment.config import config_diff, stage_config
from src.models.resnet import motion_stream
from src.training import trainer
from src.training.callbacks import OwnGradients
from src.training.pipeline import run_experiment
from src.training.speed import check_speed, convolutions_tried, set_tf32
from src.training.trainer import build_callbacks
from src.utils.errors import UserError
from tests.conftest import compose_config
from tests.models.test_modules import build, loader, random_batch

Run = Callable[..., Path]


@pytest.fixture
def compiled_sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """Sides of the clips that networks are compiled for, by a compiler that makes no machine code.

    Making it takes minutes.
    """
    sizes: set[int] = set()
    in_place = nn.Module.compile

    def backend(graph: Any, inputs: list[Tensor]) -> Any:
        sizes.update(x.shape[-1] for x in inputs if getattr(x, "ndim", 0) == 5)
        return lookup_backend("aot_eager")(graph, inputs)

    def without_code(net: nn.Module, mode: str, dynamic: bool) -> None:
        in_place(net, backend=backend, dynamic=dynamic)

    monkeypatch.setattr(nn.Module, "compile", without_code)
    yield sizes
    torch.compiler.reset()


@pytest.fixture(scope="module")
def train(tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trains and tests the appearance stage with some options; its directory."""

    def run(*options: str) -> Path:
        folder = tmp_path_factory.mktemp("run")
        where = ("run_stages=appearance", f"paths.run_dir={folder}")
        run_experiment(compose_config("train", *tiny, *where, *options))
        return folder / "appearance"

    return run


@pytest.fixture(scope="module")
def plain(train: Run) -> Path:
    return train()


def weights(stage: Path) -> dict[str, Tensor]:
    return torch.load(stage / "last.ckpt", weights_only=True)["state_dict"]


def scores(stage: Path) -> Tensor:
    return VideoScores.load(stage / "scores.csv").scores


def losses(stage: Path) -> list[float]:
    with (stage / "csv" / "version_0" / "metrics.csv").open() as file:
        values = [row["train/loss_step"] for row in csv.DictReader(file)]
    return [float(value) for value in values if value]


@pytest.mark.slow
@pytest.mark.parametrize(
    "option", ["optimizer.fused=true", "model.backbone.gradient_checkpointing=true"]
)
def test_the_same_in_less_time_or_memory(option: str, train: Run, plain: Path) -> None:
    stage = train(option)
    assert_close(weights(stage), weights(plain))
    assert_close(scores(stage), scores(plain))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_is_the_same(train: Run, plain: Path, compiled_sizes: set[int]) -> None:
    """Names included; full frames, of 64 pixels, are tested without compiling for them."""
    stage = train("compile=default")
    assert compiled_sizes == {56}
    assert_close(weights(stage), weights(plain))
    assert_close(scores(stage), scores(plain))


@pytest.mark.slow
def test_mixed_precision_is_close(train: Run, plain: Path) -> None:
    """bfloat16 has 8 bits: losses agree to a hundredth, weights and scores to a twentieth."""
    stage = train("trainer.precision=bf16-mixed")
    assert losses(stage) == pytest.approx(losses(plain), rel=1e-2)
    ours, theirs = weights(stage), weights(plain)
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        if name.endswith("weight"):
            assert_close(ours[name], tensor, rtol=0, atol=0.05 * float(tensor.abs().max()))
    assert scores(stage).isfinite().all()
    assert_close(scores(stage), scores(plain), rtol=0.05, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_compiled_units_are_computed_again(
    dtype: torch.dtype | None, compiled_sizes: set[int]
) -> None:
    """Checkpointing inside compiled code: gradients, and statistics that a batch changes once."""
    found = []
    clip = torch.randn(2, 4, 2, 32, 32)
    for compiled, checkpointing in ((False, False), (True, True)):
        torch.manual_seed(0)
        # 8 wide: oneDNN 3.13 fails in narrower ones, see test_every_option.py.
        net = motion_stream(3, 2, 18, 8, gradient_checkpointing=checkpointing)
        if compiled:
            net.compile(mode="default", dynamic=False)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            net(clip).float().square().mean().backward()
        gradients = {f"{name}.grad": p.grad for name, p in net.named_parameters()}
        found.append(gradients | dict(net.state_dict()))
    rtol, atol = (1e-5, 1e-5) if dtype is None else (0.05, 0.02)
    assert_close(found[1], found[0], rtol=rtol, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    [
        "compile=default",
        "optimizer.fused=true",
        "model.backbone.gradient_checkpointing=true",
        "data.loader.num_workers=3",
    ],
)
def test_a_run_goes_on_with_another_speed(option: str) -> None:
    now, before = (
        stage_config(compose_config("train", *options), "joint") for options in ([option], [])
    )
    assert config_diff(now, before) is None


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("trainer.precision=bf16-mixed", "trainer.precision: bf16-mixed, 32-true"),
        ("tf32=true", "tf32: True, None"),
    ],
)
def test_another_precision_is_another_run(option: str, told: str) -> None:
    now, before = (
        stage_config(compose_config("train", *options), "joint") for options in ([option], [])
    )
    assert config_diff(now, before) == told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["trainer.precision=16-mixed"], r"trainer\.precision=16-mixed needs a GPU: choose bf16"),
        (["compile=fast"], "compile=fast: choose from None, default, reduce-overhead, max-auto"),
        (["tf32=convolutions"], "tf32=convolutions: choose from None, True, False"),
    ],
)
def test_mistakes_are_found_before_the_start(options: list[str], told: str, tmp_path: Path) -> None:
    run = ("trainer.accelerator=cpu", f"paths.run_dir={tmp_path / 'run'}", *options)
    with pytest.raises(UserError, match=told):
        run_experiment(compose_config("train", "experiment=st_resnet_ucf101", *run))
    assert not (tmp_path / "run").exists()


def test_evaluation_has_no_half_precision_on_cpus(
    finished_run: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = f"ckpt_path={finished_run / 'joint' / 'last.ckpt'}"
    precision = ("trainer.accelerator=cpu", "trainer.precision=16-mixed")
    assert call(evaluate.main, checkpoint, *precision) == 1
    assert capsys.readouterr().err.startswith("error: trainer.precision=16-mixed needs a GPU")


def test_a_missing_compiler_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing compiled earlier
    # Not with monkeypatch: it would leave torch without the setting, for all tests that follow.
    told = pytest.raises(UserError, match=r"^compile=default: torch\.compile does not work here")
    with inductor.patch("cpp.cxx", ("nowhere-g++",)), told:
        check_speed("default", None, torch.device("cpu"))
    torch.compiler.reset()


def test_tf32() -> None:
    """Asked for, refused, and as torch has it by itself: no job leaves its choice to the next."""
    for wanted, convolutions, products in (
        (True, True, "high"),
        (False, False, "highest"),
        (None, True, "highest"),
    ):
        set_tf32(wanted)
        assert torch.backends.cudnn.allow_tf32 == convolutions
        assert torch.get_float32_matmul_precision() == products


@pytest.mark.slow
def test_cudnn_chooses_in_training_alone(tiny: tuple[str, ...], tmp_path: Path) -> None:
    """Full frames have another size in almost every video: they would be searched for each."""
    seen: dict[str, bool] = {}

    class Look(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            seen["train"] = torch.backends.cudnn.benchmark

        def on_test_start(self, *_: Any) -> None:
            seen["test"] = torch.backends.cudnn.benchmark

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "build_callbacks", lambda _: [Look()])
        where = ("run_stages=appearance", f"paths.run_dir={tmp_path}")
        run_experiment(compose_config("train", *tiny, *where))
    assert seen == {"train": True, "test": False}


@pytest.mark.parametrize(("wanted", "found"), [(None, False), (True, True), (False, False)])
def test_what_is_to_be_deterministic_is_not_searched(wanted: bool | None, found: bool) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with convolutions_tried(wanted):
            assert torch.backends.cudnn.benchmark == found
    finally:
        torch.use_deterministic_algorithms(False)
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("mode", [None, "default", "reduce-overhead", "max-autotune"])
def test_parts_of_an_update_share_memory_that_no_cuda_graph_owns(mode: str | None) -> None:
    """Else the gradients of the first part are the graph's, and the second part's replace them."""
    cfg = compose_config("train", f"compile={mode}" if mode else "compile=null")
    needed = [one for one in build_callbacks(cfg) if isinstance(one, OwnGradients)]
    assert len(needed) == (mode in ("reduce-overhead", "max-autotune"))
    own: list[dict[str, Tensor]] = []

    class Look(pl.Callback):
        def on_before_backward(self, _: object, module: pl.LightningModule, __: object) -> None:
            own.append({n: p.grad for n, p in module.named_parameters() if p.grad is not None})

        def on_after_backward(self, _: object, module: pl.LightningModule) -> None:
            for name, parameter in module.named_parameters() if needed else ():
                assert parameter.grad is own[-1][name]

    weights = []
    batches = [random_batch() for _ in range(4)]
    for callbacks in ([*needed, Look()], []):
        torch.manual_seed(0)
        module = build("joint")
        pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            accumulate_grad_batches=2,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, loader(batches))
        weights.append(dict(module.net.named_parameters()))
    assert len(own) == 4
    assert_close(weights[0], weights[1])
