"""How much a network computes, and how much a device could."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

# Of NVIDIA's data sheets, by the name of the device: dense products in TFLOP/s, of bfloat16 or
# float16, of TF32 and of float32 numbers.
FORMATS = ("bf16", "tf32", "fp32")
PEAKS = {
    "NVIDIA A100-PCIE-40GB": (312, 156, 19.5),
    "NVIDIA A100-SXM4-40GB": (312, 156, 19.5),
    "NVIDIA A100 80GB PCIe": (312, 156, 19.5),
    "NVIDIA A100-SXM4-80GB": (312, 156, 19.5),
    "NVIDIA H100 PCIe": (756, 378, 51),
    "NVIDIA H100 NVL": (835, 417, 60),
    "NVIDIA H100 80GB HBM3": (989, 495, 67),
    "NVIDIA H200": (989, 495, 67),
    "NVIDIA H200 NVL": (835, 417, 60),
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


def number_format(precision: str) -> str:
    """The format that convolutions multiply in: bf16 (float16 is as fast), tf32 or fp32.

    Args:
        precision: Lightning's, such as bf16-mixed; of 32-true, torch's settings decide.
    """
    if precision.startswith(("bf16", "16")):
        return "bf16"
    return "tf32" if torch.backends.cudnn.allow_tf32 else "fp32"


def utilisation(flops: float, device: torch.device, precision: str) -> str:
    """FLOP/s in words: on a known GPU with the share of its peak.

    Args:
        flops: that the model needs, a second.
        device: that it runs on.
        precision: see `number_format`.
    """
    told = f"{flops / 1e12:.4g} TFLOP/s"
    peaks = PEAKS.get(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if peaks is None:
        return told
    name = number_format(precision)
    peak = peaks[FORMATS.index(name)]
    return f"{told}, {100 * flops / (peak * 1e12):.1f} % of the device's {name} peak ({peak:g})"
