"""Pruning of training data: choose before each epoch which samples to train on. Needs torch only."""

from decathlon.pruning.sampler import EpochSampler, split_batches

__all__ = ["EpochSampler", "split_batches"]
