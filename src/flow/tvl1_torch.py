"""TV-L1 optical flow in PyTorch: batches of pairs on any device, with OpenCV's results.

Zach, Pock, Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow" (DAGM 2007), in the
form of OpenCV's DualTVL1OpticalFlow, which follows Sanchez, Meinhardt-Llopis, Facciolo (IPOL 2013).
From the coarsest scale of a pyramid to the finest, and several times at each, the second image is
warped by the flow so far, u0, and the residual linearised around it,

    rho(u) = I1(x + u0) + grad I1(x + u0) . (u - u0) - I0(x).

The energy  sum |grad u| + lambda |rho(u)|  is then minimized over two fields u and w, coupled by
|u - w|^2 / 2 theta, by turns: a pointwise step for the data, and a dual one, p, for the variation:

    w = u - clamp(rho(u) / |grad I1|^2, -lambda theta, lambda theta) grad I1
    u = w + theta div p
    p = (p + tau / theta grad u) / (1 + tau / theta |grad u|)

Now and then u goes through a median filter. A pair stops when its u changes by less than epsilon.
"""

import functools
import logging
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from src.flow.algorithm import TVL1Parameters
from src.media.sources import Size
from src.utils.errors import first_line

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

SMALLEST = 16  # pixels: no coarser scale has a smaller side
FLAT = torch.finfo(torch.float32).eps  # squared gradients below this say nothing about motion
# Iterations in one call on a GPU, where each is so short that calling it would take longer.
UNROLLED = 10
BATCH_ON_GPU = 32  # pairs
COMPILED = {"cuda"}  # types of devices
DEFAULTS = TVL1Parameters()


class State(NamedTuple):
    """What the iterations change: the flow (u, v), and the dual fields of u and v; (N, H, W)."""

    u: Tensor
    v: Tensor
    ux: Tensor
    uy: Tensor
    vx: Tensor
    vy: Tensor


class Residual(NamedTuple):
    """The linearised residual, rho = rest + x u + y v; (N, H, W)."""

    rest: Tensor
    x: Tensor
    y: Tensor


@torch.no_grad()
def tvl1_flow(first: Tensor, second: Tensor, parameters: TVL1Parameters = DEFAULTS) -> Tensor:
    """Compute the flow from the images `first` to the images `second`, on their device.

    Args:
        first: grey images (N, H, W) of any dtype, from 0 to 255.
        second: as many of the same size.
        parameters: valid ones of `src.flow.algorithms.TVL1Torch`.

    Returns:
        float32 (N, 2, H, W), channels u (right) and v (down) in pixels. Each pair's is the same
        alone and in any batch, up to rounding.
    """
    if len(first) == 1 and first.device.type in COMPILED:  # would be compiled apart
        return tvl1_flow(first.expand(2, -1, -1), second.expand(2, -1, -1), parameters)[:1]
    pyramid = [(first.float(), second.float())]
    for size in _sizes((first.shape[-2], first.shape[-1]), parameters)[1:]:
        step = (1 / parameters.scaleStep,) * 2
        pyramid.append((_resize(pyramid[-1][0], size, step), _resize(pyramid[-1][1], size, step)))
    u = v = torch.zeros_like(pyramid[-1][0])
    for images in reversed(pyramid):
        size = (images[0].shape[-2], images[0].shape[-1])
        step = (u.shape[-2] / size[0], u.shape[-1] / size[1])
        if step != (1, 1):
            u, v = (_resize(x, size, step) / parameters.scaleStep for x in (u, v))
        u, v = _one_scale(*images, u, v, parameters)
    return torch.stack([u, v], dim=1)  # (N, 2, H, W)


def _sizes(size: Size, parameters: TVL1Parameters) -> list[Size]:
    """The sizes (height, width) of the pyramid's scales, the finest first."""
    sizes = [size]
    for _ in range(1, parameters.nscales):
        size = round(size[0] * parameters.scaleStep), round(size[1] * parameters.scaleStep)
        if min(size) < SMALLEST:
            break
        sizes.append(size)
    return sizes


def _one_scale(
    first: Tensor, second: Tensor, u: Tensor, v: Tensor, parameters: TVL1Parameters
) -> tuple[Tensor, Tensor]:
    """Refine the flow (N, H, W) at one scale."""
    on_host = first.device.type == "cpu"  # so that looking at a result is not waiting for it
    median = _filter(parameters.medianFiltering) if parameters.medianFiltering > 1 else None
    images = torch.stack([second, *_centered_gradient(second)], dim=1)  # (N, 3, H, W)
    state = State(u, v, *(torch.zeros_like(u) for _ in range(4)))
    for _ in range(parameters.warps):
        residual = _linearise(first, images, state.u, state.v)
        active = first.new_ones(len(first), 1, 1, dtype=torch.bool)
        for _ in range(parameters.outerIterations):
            if not active.any():
                break
            if median:
                state = state._replace(u=median(state.u, active), v=median(state.v, active))
            left = parameters.innnerIterations
            while left and (not on_host or active.any()):
                count = min(left, 1 if on_host else UNROLLED)
                state, active = _iterations(parameters, count)(state, residual, active)
                left -= count
    return state.u, state.v


def _linearise(first: Tensor, images: Tensor, u: Tensor, v: Tensor) -> Residual:
    """Warp the second images and their gradients (N, 3, H, W) by the flow (N, H, W).

    The kernel is cv2.remap's, and what lies outside the image is 0 as there: x and y are 0, too,
    and such a pixel follows its neighbors. OpenCV 4 rounds positions to 1/32 pixel, version 5 does
    not, and neither does this.
    """
    height, width = u.shape[-2:]
    x = torch.arange(width, device=u.device) + u
    y = torch.arange(height, device=u.device)[:, None] + v
    # grid_sample wants positions as fractions of the size. Those of a power of 2 are exact: where
    # nothing moves, there must be nothing that the iterations could amplify.
    down, right = (2 ** (side - 1).bit_length() for side in (height, width))
    images = F.pad(images, (0, right + 1 - width, 0, down + 1 - height))
    grid = torch.stack([2 * x / right - 1, 2 * y / down - 1], dim=-1)  # (N, H, W, 2)
    warped = F.grid_sample(images, grid, "bicubic", padding_mode="zeros", align_corners=True)
    image, x, y = warped.unbind(dim=1)  # 3 times (N, H, W)
    return Residual(image - x * u - y * v - first, x, y)


def _step(
    state: State, residual: Residual, active: Tensor, parameters: TVL1Parameters
) -> tuple[State, Tensor]:
    """One iteration, and which pairs have changed enough to continue; `active` is (N, 1, 1)."""
    u, v, ux, uy, vx, vy = state
    rest, x, y = residual
    theta, rate = parameters.theta * active, parameters.tau / parameters.theta * active  # 0: stay
    largest = parameters.lambda_ * theta
    rho = rest + x * u + y * v
    descent = (rho / (x * x + y * y).clamp_min(FLAT)).clamp(-largest, largest)
    new_u = u - descent * x + theta * _divergence(ux, uy)
    new_v = v - descent * y + theta * _divergence(vx, vy)
    change = (new_u - u).square() + (new_v - v).square()
    # By rows first: the compiler makes those sums a part of the kernel that makes the flow.
    change = change.mean(dim=-1, keepdim=True).mean(dim=-2, keepdim=True)
    state = State(new_u, new_v, *_ascend(ux, uy, new_u, rate), *_ascend(vx, vy, new_v, rate))
    return state, change > parameters.epsilon**2


def _ascend(px: Tensor, py: Tensor, u: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """Update the dual fields of `u`."""
    right = F.pad(u.diff(dim=-1), (0, 1))  # forward differences, 0 at the last pixel
    down = F.pad(u.diff(dim=-2), (0, 0, 0, 1))
    norm = 1 + rate * (right * right + down * down).sqrt()
    return (px + rate * right) / norm, (py + rate * down) / norm


def _divergence(px: Tensor, py: Tensor) -> Tensor:
    """Backward differences, as if 0 came before the first pixel: the forward ones' adjoint."""
    return px - F.pad(px[..., :-1], (1, 0)) + py - F.pad(py[..., :-1, :], (0, 0, 1, 0))


def _centered_gradient(images: Tensor) -> tuple[Tensor, Tensor]:
    padded = _pad(images, 1)
    right = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    return right, down


def _pad(images: Tensor, border: int) -> Tensor:
    """Repeat the outermost pixels of (N, H, W)."""
    return F.pad(images[:, None], (border,) * 4, mode="replicate")[:, 0]


def _resize(images: Tensor, size: Size, step: tuple[float, float]) -> Tensor:
    """Interpolate (N, H, W) linearly at centers `step` pixels apart, as cv2.resize does.

    Not F.interpolate: with a given step that rounds the size down, and OpenCV to the nearest.
    """
    for dim in (-2, -1):
        last = images.shape[dim] - 1
        centers = (torch.arange(size[dim], dtype=torch.float64) + 0.5) * step[dim] - 0.5
        centers = centers.clamp(0, last)
        before = centers.floor()
        weight = (centers - before).float().unflatten(0, (-1,) + (1,) * (-1 - dim))
        before = before.long().to(images.device)
        images = torch.lerp(
            images.index_select(dim, before),
            images.index_select(dim, (before + 1).clamp(max=last)),
            weight.to(images.device),
        )
    return images


def _median(images: Tensor, size: int) -> Tensor:
    """Filter (N, H, W) with the median over `size` x `size` pixels, the border repeated.

    Nothing but minima and maxima of full images, which are fused into two kernels on a GPU.
    """
    height, width = images.shape[-2:]
    padded = _pad(images, size // 2)
    # Sort each column of the window, which windows side by side share, then each row of those.
    columns = _sort([padded[:, i : i + height] for i in range(size)])
    rows = [_sort([column[..., i : i + width] for i in range(size)]) for column in columns]
    # Row and column ascend: of (i, j) we know how many are not larger, and how many not smaller.
    half = (size * size + 1) // 2
    candidates = [
        rows[i][j]
        for i in range(size)
        for j in range(size)
        if (i + 1) * (j + 1) <= half and (size - i) * (size - j) <= half
    ]
    # The extremes of more than half of what is left cannot be its median: forget them.
    pool, rest = candidates[: len(candidates) // 2 + 2], candidates[len(candidates) // 2 + 2 :]
    while len(pool) > 1:
        for i in range(1, len(pool)):
            pool[0], pool[i] = _in_order(pool[0], pool[i])
        for i in range(1, len(pool) - 1):
            pool[i], pool[-1] = _in_order(pool[i], pool[-1])
        pool, rest = pool[1:-1] + rest[:1], rest[1:]
    return pool[0]


def _sort(images: list[Tensor]) -> list[Tensor]:
    """Sort a few images pixel by pixel, the smallest first, in place."""
    for end in range(len(images) - 1, 0, -1):
        for i in range(end):
            images[i], images[i + 1] = _in_order(images[i], images[i + 1])
    return images


def _in_order(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return torch.minimum(a, b), torch.maximum(a, b)


@functools.cache
def _iterations(
    parameters: TVL1Parameters, count: int
) -> Callable[[State, Residual, Tensor], tuple[State, Tensor]]:
    """`count` iterations; a pair that is not `active` (N, 1, 1) has converged and stays."""

    def iterate(state: State, residual: Residual, active: Tensor) -> tuple[State, Tensor]:
        for _ in range(count):
            state, active = _step(state, residual, active, parameters)
        return state, active

    return _fused(iterate)


@functools.cache
def _filter(size: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The median filter of one component of the flow of the pairs that are `active`."""

    def smooth(images: Tensor, active: Tensor) -> Tensor:
        return torch.where(active, _median(images, size), images)

    return _fused(smooth)


def _fused(function: Callable[P, R]) -> Callable[P, R]:
    """Compile for devices in COMPILED, for all sizes at once; where that fails, run without."""
    compiled: list[Callable[P, R]] = []

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        *_, last = args
        if isinstance(last, Tensor) and last.device.type in COMPILED:
            try:
                if not compiled:  # not before: it imports much that a CPU has no need of
                    compiled.append(torch.compile(function, dynamic=True))
                return compiled[0](*args, **kwargs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # of any kind: no Triton, no compiler, a driver too old
                COMPILED.clear()
                log.warning(
                    "TV-L1 is not compiled, which takes several times longer: %s", first_line(error)
                )
        return function(*args, **kwargs)

    return call
