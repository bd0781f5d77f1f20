"""Pixels out of files, and into them: videos, images, archives; nothing about datasets."""
