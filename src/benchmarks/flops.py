"""How much a network computes, and how much a device could."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

# Of NVIDIA's data sheets: dense products of bfloat16 numbers, in FLOP/s, by the name of the device.
BF16_PEAKS = {
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def training_flops(net: nn.Module, inputs: Sequence[Tensor]) -> int:
    """FLOPs of convolutions and matrix products, forwards and backwards; a product and a sum are 2.

    Args:
        net: on the meta device, where nothing is computed; what checkpointing would compute a
            second time does not count.
        inputs: likewise.
    """
    net.eval()  # units are computed again in training alone
    with FlopCounterMode(display=False) as counter:
        logits = net(*inputs)
        logits = logits if isinstance(logits, tuple) else (logits,)
        torch.stack([x.sum() for x in logits]).sum().backward()
    return counter.get_total_flops()


def utilisation(flops: float, device: torch.device) -> str:
    """FLOP/s in words: on a known GPU with the share of its peak, whatever the precision is.

    Args:
        flops: that the model needs, a second.
        device: that it runs on.
    """
    told = f"{flops / 1e12:.4g} TFLOP/s"
    peak = BF16_PEAKS.get(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if peak is None:
        return told
    return f"{told}, {100 * flops / peak:.1f} % of the device's bf16 peak ({peak / 1e12:.0f})"
