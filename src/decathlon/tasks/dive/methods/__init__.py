"""DIVE and its baselines, one file each, on the same backbone. What each has to offer is in ``base``."""
