"""The means that a released network subtracts from its input, which it never divides."""

import numpy as np

from src.importing.dag import Dag


def means(dag: Dag, flow_channels: int, rgb_channels: int) -> tuple[list[float], list[float]]:
    """The means of the flow and of the RGB channels, in 0..255.

    The file's average image has both for a joint network, flow first; an image of more than one
    pixel is averaged over its positions, as the released implementation does.

    Args:
        dag: the file.
        flow_channels: 2L of the motion stream, 0 if there is none.
        rgb_channels: 3, 0 if there is no appearance stream.

    Raises:
        UserError: there is no average image, or it has other channels.
    """
    image, channels = dag.average_image, flow_channels + rgb_channels
    if image is None:
        raise dag.error(
            "it has no meta.normalization.averageImage to subtract from the input; in MATLAB, set "
            f"it to 1 x 1 x {channels} means, 128 for flow"
        )
    if image.ndim < 3:  # one pixel, as a row or a column
        image = image.reshape(1, 1, -1)
    if image.shape[2] != channels:
        raise dag.error(
            f"meta.normalization.averageImage has {image.shape[2]} channels, not {channels}"
        )
    values = image.astype(np.float64).mean((0, 1)).tolist()
    return values[:flow_channels], values[flow_channels:]
