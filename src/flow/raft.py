"""RAFT optical flow (Teed, Deng, ECCV 2020), the networks and weights of torchvision."""

from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import optical_flow

from src.flow.algorithm import FlowAlgorithm, on_device
from src.utils.errors import UserError, first_line

MODELS = {
    "large": (optical_flow.raft_large, optical_flow.Raft_Large_Weights),
    "small": (optical_flow.raft_small, optical_flow.Raft_Small_Weights),
}
MULTIPLE = 8  # of the sides: features are at an eighth of the resolution,
SMALLEST = 128  # and their correlations halve it three times more
BATCH_ON_GPU = 16  # pairs


def algorithm(model: str, weights: str | None, iterations: int, device: str) -> FlowAlgorithm:
    """Make RAFT a flow algorithm; the arguments are those of `src.flow.algorithms.RAFT`.

    Raises:
        UserError: there is no such model or weights, or they do not fit each other.
    """
    if model not in MODELS:
        raise UserError(f"RAFT has no model {model!r}: choose from {', '.join(MODELS)}")
    if not isinstance(iterations, int) or iterations < 1:
        raise UserError(f"RAFT with iterations={iterations}: give a number of updates, 1 or more")
    net: nn.Module = MODELS[model][0](weights=None)
    if weights is not None:
        _load(net, model, str(weights))
    net.eval().requires_grad_(False)

    @torch.no_grad()
    def flow(first: Tensor, second: Tensor) -> Tensor:
        height, width = first.shape[-2:]
        top, left = _lacking(height) // 2, _lacking(width) // 2
        border = (left, _lacking(width) - left, top, _lacking(height) - top)
        pair = (F.pad(x / 127.5 - 1, border, mode="replicate") for x in (first, second))
        field: Tensor = net(*pair, num_flow_updates=iterations)[-1]  # (N, 2, H, W)
        return field[..., top : top + height, left : left + width]

    result = on_device(flow, device, BATCH_ON_GPU, color=True)
    net.to(device)
    return result


def _lacking(side: int) -> int:
    """How many pixels a side lacks to be one that RAFT takes."""
    return SMALLEST - side if side < SMALLEST else -side % MULTIPLE


def _load(net: nn.Module, model: str, weights: str) -> None:
    """Load torchvision's weights of that name, or those of a file."""
    known = MODELS[model][1].__members__
    if weights in known:
        try:
            state: Any = known[weights].get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError, HTTPException) as error:
            raise UserError(
                f"RAFT weights {weights} cannot be downloaded ({first_line(error)}): connect this "
                "machine, or give the path of a file of them as weights"
            ) from error
    elif Path(weights).is_file():
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        except Exception as error:  # torch's loader fails in a dozen ways on other files
            raise UserError(
                f"RAFT weights {weights} cannot be read ({first_line(error)}): give a file made by "
                "torch.save of a state dict"
            ) from error
    else:
        raise UserError(
            f"RAFT has no weights {weights!r}: give the path of a file, or for model={model} one "
            f"of {', '.join(known)}"
        )
    expected, given = set(net.state_dict()), set(state) if isinstance(state, dict) else set()
    try:
        if expected != given:
            examples = ", ".join(sorted(map(str, expected ^ given))[:2])
            raise RuntimeError(f"{len(expected ^ given)} names differ, such as {examples}")
        net.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"RAFT weights {weights} do not fit model={model} ({first_line(error)}): give "
            f"weights of torchvision's raft_{model}, or the other model"
        ) from error
