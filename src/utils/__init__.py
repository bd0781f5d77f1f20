"""What all rooms need: errors, files, processes, the terminal."""
