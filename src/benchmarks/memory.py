"""Memory of a loader's processes over many clips: it must come to a stand."""

from pathlib import Path

import numpy as np
from rich.console import Console
from torch.utils.data import DataLoader

from src.benchmarks.material import Material
from src.data.dataset import RandomClip, VideoDataset
from src.data.faults import SkipBrokenVideos
from src.data.images import open_images
from src.data.library import FlowFolders, VideoFiles
from src.data.loading import DrawSampler, VideoLoader, collate
from src.data.splits import Video
from src.data.transforms import CornerJitterCrop
from src.errors import UserError
from src.hardware import memory_of_tree_gib

BATCH = 8
PRINTS = 20


def memory(material: Material, clips: int, workers: int) -> list[float]:
    """Print the memory of all processes while a loader reads clips, RGB from videos, flow from zip.

    Args:
        material: what is read.
        clips: how many, at least 20 batches.
        workers: processes that read.

    Returns:
        GiB at each print: of this process and its workers, what they share counted once.

    Raises:
        UserError: the system does not tell a process's share.
    """
    if memory_of_tree_gib() is None:
        raise UserError("target=memory needs Linux, which tells how much of its memory is shared")
    console = Console()
    console.print(f"memory: {clips} clips by {workers} workers, from {material.source}")
    loader = _loader(material, clips, workers)
    seen, every, figures = 0, max(1, clips // PRINTS), []
    for batch in loader:
        before, seen = seen, seen + len(batch["label"])
        if before // every != seen // every:
            figures.append(memory_of_tree_gib() or 0.0)
            console.print(f"{seen:8d} clips  {figures[-1]:.3f} GiB")
    half = figures[len(figures) // 2 :]
    slope = np.polyfit(np.arange(len(half)), half, 1)[0] if len(half) > 1 else 0.0
    grown = 1024 * slope * (len(half) - 1)
    console.print(f"trend over the second half: {grown:+.1f} MiB")
    return figures


def _loader(material: Material, clips: int, workers: int) -> DataLoader:
    names = list(material.frames)
    videos = [
        Video(name, material.video("avi", name), 0)
        for name in (names[i % len(names)] for i in range(clips))
    ]
    view = RandomClip(5, (5, 15), CornerJitterCrop(224), 224, 256, mirror=True)
    flow = FlowFolders(open_images(Path(material.root, "flow.zip")))
    dataset = VideoDataset(videos, VideoFiles(), flow, view, 10, seed=0)
    return VideoLoader(
        SkipBrokenVideos(dataset, workers, replace=False, seed=0),
        batch_size=BATCH,
        sampler=DrawSampler(clips, 0, shuffle=True),
        num_workers=workers,
        collate_fn=collate,
    )
