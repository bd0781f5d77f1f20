"""Checkpoints: whole whenever the writer is ended; what is not one of ours is told."""

import multiprocessing
import os
import time
from pathlib import Path
from pickle import PicklingError

import pytest
import torch

from src.experiment.run_dir import StageDir
from src.training.checkpointing import AtomicCheckpointIO
from src.utils.errors import UserError


def write_on(path: Path) -> None:
    for number in range(10**6):
        AtomicCheckpointIO().save_checkpoint({"a": torch.full((2**18,), number)}, path)


@pytest.mark.slow
def test_a_checkpoint_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    context = multiprocessing.get_context("forkserver")
    writer = context.Process(target=write_on, args=(path,))
    writer.start()
    deadline = time.monotonic() + 60
    while not path.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    numbers = []
    for _ in range(20):  # at any time it is whole, and never older than before
        tensor = torch.load(path, weights_only=True)["a"]
        assert (tensor == tensor[0]).all()
        numbers.append(int(tensor[0]))
        time.sleep(0.003)
    writer.kill()
    writer.join()
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 1
    tensor = torch.load(path, weights_only=True)["a"]
    assert (tensor == tensor[0]).all()


def test_an_error_while_writing_leaves_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, path)
    with pytest.raises((AttributeError, PicklingError)):  # as Python before and from 3.14 has it
        AtomicCheckpointIO().save_checkpoint({"a": (lambda: 1)}, path)  # cannot be pickled
    assert torch.load(path, weights_only=True) == {"a": 1}


def test_checkpoints_that_training_cannot_go_on_from(finished_run: Path, tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "appearance")
    stage.path.mkdir()
    assert stage.begun() is None
    good = (finished_run / "appearance" / "last.ckpt").read_bytes()
    stage.checkpoint.write_bytes(good)
    assert stage.begun() is not None
    stage.checkpoint.write_bytes(good[: len(good) // 2])
    with pytest.raises(UserError, match=r"last.ckpt cannot be read.*delete it to train this stage"):
        stage.begun()
    torch.save({"state_dict": {}}, stage.checkpoint)
    with pytest.raises(UserError, match=r"not a checkpoint of this project.*delete it"):
        stage.begun()
    content = torch.load(finished_run / "appearance" / "last.ckpt", weights_only=True)
    del content["optimizer_states"]
    torch.save(content, stage.checkpoint)
    with pytest.raises(UserError, match=r"holds weights.*stages.appearance.init_from"):
        stage.begun()
    assert os.listdir(stage.path) == ["last.ckpt"]
