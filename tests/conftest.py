"""A tiny two_movers and a run of all stages on it, made once for all tests."""

import gc
import multiprocessing
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from hydra._internal.config_repository import ConfigRepository
from hydra.plugins.config_source import ConfigResult

from src.experiment.compose import CONF_DIR
from src.experiment.compose import compose_config as compose_config
from src.training.pipeline import run_experiment
from src.utils.files import exclusive_lock

# The real configuration, made small: 16 clips, narrow streams, one epoch, no worker processes,
# few pictures, and none for TensorBoard, which take as long as the training.
TINY = (
    "data.dataset.num_train=16",
    "data.dataset.num_test=8",
    "data.loader.num_workers=0",
    "data.test.batch_size=4",
    "model.backbone.width=4",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=1",
    "logger=csv",
    "num_sample_videos=2",
)

# Modules of processes that tests start.
FORKED = [
    "src.training.launch",
    "src.extraction.worker",
    "src.data.two_movers",
    "tests.data.test_loading",
    "tests.data.test_two_movers",
    "tests.data.verification.damaged",
    "tests.media.test_images",
    "tests.processes",
    "tests.robustness.fuzz",
    "tests.training.test_checkpoint_io",
    "tests.training.test_stop_and_go",
]

# One thread here and in all that tests start: more only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long, and with which seed, damaged files are read (robustness/)."""
    parser.addoption("--fuzz-seconds", type=float, default=60.0)
    parser.addoption("--fuzz-seed", type=int, default=0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first: of two processes, none is then left with one of them in the end."""
    items.sort(key=lambda item: ("slow" not in item.keywords, item.path.parent.name != "training"))


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> None:
    """Where processes are forked from, the project's too: it imports once for all of them."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.get_context("forkserver").set_forkserver_preload(FORKED)
        forkserver.ensure_running()


@pytest.fixture(scope="session", autouse=True)
def imports_are_not_looked_at() -> None:
    """To collect garbage takes half a second for all that tests import, and runs often do it."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def configs_are_parsed_once() -> Iterator[None]:
    """Files of conf/ are the same in a thousand tests; Hydra parses all of them in each."""
    parse, parsed = ConfigRepository.load_config, dict[str, bytes]()

    def load(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
        files = [source.path for source in repository.sources if source.scheme() == "file"]
        if files != [str(CONF_DIR)]:  # with some of a test's own, which it may change
            return parse(repository, config_path)
        if config_path not in parsed:
            parsed[config_path] = pickle.dumps(parse(repository, config_path))
        result: ConfigResult | None = pickle.loads(parsed[config_path])  # one's own: it is changed
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", load)
        yield


@pytest.fixture(autouse=True)
def repeatable() -> None:
    """The same random numbers in every test."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes that the tests are divided among."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def tiny(shared: Path) -> tuple[str, ...]:
    """Overrides for a tiny experiment on data that is made once, by the first run that needs it."""
    return (*TINY, f"data.dataset.root={shared / 'two_movers'}")


@pytest.fixture(scope="session")
def finished_run(tiny: tuple[str, ...], shared: Path) -> Path:
    """The run directory of all four stages, trained by one process; tests leave it as it is."""
    more = ("logger=[csv,tensorboard]", "num_sample_videos=8")
    cfg = compose_config("train", *tiny, *more, f"paths.output_dir={shared / 'outputs'}")
    folder = Path(cfg.paths.run_dir)
    with exclusive_lock(shared / "finished_run.lock", wait=True):
        if not (folder / "results.csv").is_file():
            run_experiment(cfg)
    return folder


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    """The same, for tests that change it."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run an entry point with arguments; its exit status."""

    def run(main: Callable[[], None], *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run
