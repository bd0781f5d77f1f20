"""Frames and flow of videos written to files, by many processes, resumed where stopped."""
