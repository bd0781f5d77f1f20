"""Two-stream and spatiotemporal residual networks for video action recognition."""

import os

# Pixels of the largest image or video frame that is decoded: a file of 5 kB may claim a billion.
# It is OpenCV's own variable, read when that is imported; frames of videos follow it, too.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "64000000")

__version__ = "0.1.0"
