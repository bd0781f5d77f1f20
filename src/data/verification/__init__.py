"""A dataset looked at before it is trained on: each video, its flow, the lists."""
