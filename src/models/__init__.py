"""The networks, plain modules of torch, and the LightningModules that train them."""
