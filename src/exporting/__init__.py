"""Networks and features for use elsewhere."""
