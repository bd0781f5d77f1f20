"""What `python -m src.benchmark` times, beside its baselines."""
