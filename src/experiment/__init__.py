"""What an experiment is: its stages' configs, and what is built from them."""
