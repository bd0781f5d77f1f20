"""The stages of an experiment, one after another, on one process or on many."""
