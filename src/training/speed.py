"""What makes a stage faster and leaves its network, names and checkpoints as they are."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from src.utils.errors import UserError, first_line
from src.utils.values import check_choice

CUDA_GRAPHS = ("reduce-overhead", "max-autotune")  # modes that replay a step's kernels as one
MODES = ("default", *CUDA_GRAPHS)  # of torch.compile


def check_speed(mode: str | None, tf32: bool | None, device: torch.device) -> None:
    """Check the choices, and compile next to nothing to find what is missing for it.

    Code for CPUs needs a C++ compiler, code for GPUs Triton.

    Raises:
        UserError: there is no such choice, or this machine cannot compile for the device.
    """
    try:
        check_choice("compile", mode, (None, *MODES))
        check_choice("tf32", tf32, (None, True, False))
    except ValueError as error:
        raise UserError(str(error)) from error
    if mode is None:
        return
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as error:  # of the compiler, its search, its libraries, Python's headers
        raise UserError(
            f"compile={mode}: torch.compile does not work here ({first_line(error)}): install a "
            "C++ compiler and Python's headers, or use compile=null"
        ) from error


def compile_nets(mode: str | None, *nets: nn.Module) -> None:
    """Have networks compiled at their first step, in place: the names of their weights stay.

    Clips of training and validation have one size each, the last batch of an epoch perhaps another:
    each is compiled for itself, which is faster than code for any size.
    """
    if mode is not None:
        torch.compiler.reset()  # an earlier stage's code counts against torch's limit
        for net in nets:
            net.compile(mode=mode, dynamic=False)


@contextlib.contextmanager
def convolutions_tried(benchmark: bool | None) -> Iterator[None]:
    """Within it cuDNN times its algorithms for each convolution and size, and keeps the fastest.

    That is for training, whose clips have one size. `benchmark` is Lightning's, whose None stands
    for: unless algorithms have to be deterministic.
    """
    before = torch.backends.cudnn.benchmark
    if benchmark is None:
        benchmark = not torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = benchmark
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def set_tf32(allowed: bool | None) -> None:
    """Let GPUs multiply 32-bit numbers with mantissas of 10 bits (TF32), or not.

    Both in convolutions and matrix products; None as torch has it by itself, in convolutions alone.
    """
    torch.backends.cudnn.allow_tf32 = allowed is not False
    torch.set_float32_matmul_precision("high" if allowed else "highest")
