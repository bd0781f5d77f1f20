"""Charts, and pictures of clips, out of plain names and numbers."""
