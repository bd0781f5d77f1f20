"""The authors' released MatConvNet models, as checkpoints of this project."""
