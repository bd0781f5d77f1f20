"""Which worker of the extractor computes where."""

from itertools import cycle, islice

from src.errors import UserError
from src.flow.settings import FlowSettings
from src.hardware import usable_cores

CPU = "cpu"


def worker_devices(settings: FlowSettings, device: str | None, workers: int | None) -> list[str]:
    """The device of each worker, which tells their number, too.

    Args:
        settings: the algorithm; those of OpenCV run on the CPU.
        device: such as cpu or cuda:1; cuda for all GPUs in turn; None for them if there are any.
        workers: processes; None for one per GPU, or one per core that this process may use.

    Raises:
        UserError: a wrong number, or a device for an algorithm that cannot run on it.
    """
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise UserError(f"workers={workers} is not a number of processes, 1 or more")
    if not settings.uses_torch and device not in (None, CPU):
        raise UserError(
            f"flow algorithm {settings.algorithm} runs on the CPU only: leave out device={device}"
        )
    devices = [device or CPU]
    if settings.uses_torch and device in (None, "cuda"):
        import torch  # here, because the algorithms of OpenCV do without

        devices = [f"cuda:{gpu}" for gpu in range(torch.cuda.device_count())] or devices
    if workers is None:
        workers = usable_cores() if devices == [CPU] else len(devices)
    return list(islice(cycle(devices), workers))
