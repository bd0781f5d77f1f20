"""Video files and streams, opened for reading by any version of PyAV."""

from typing import Any

import av

# Titles in old files are not in UTF-8. From 19 on PyAV puts up with them by itself.
_LENIENT = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def open_container(source: str, **options: Any) -> av.container.InputContainer:
    """Open a file, URL or device; `options` as of `av.open`."""
    container: av.container.InputContainer = av.open(source, "r", **_LENIENT, **options)
    return container


def stream_of(container: av.container.InputContainer) -> av.VideoStream | None:
    """The video of a file; None if there is none, or of an unknown codec."""
    stream = container.streams.best("video")  # decord's choice among several, too
    known = isinstance(stream, av.VideoStream) and stream.codec_context is not None
    return stream if known else None
