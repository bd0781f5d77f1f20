"""Optical flow: algorithms, the extractor, and flow that is computed on the fly."""
