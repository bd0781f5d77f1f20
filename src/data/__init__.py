"""Videos of a dataset as batches: lists, sampling, transforms, the loader, the datamodule."""
