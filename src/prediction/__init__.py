"""Videos of any kind in, classes out."""
