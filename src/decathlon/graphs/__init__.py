"""Graphs of any kind as packed tensors: batches, sums over neighbours and over graphs, layers. Knows no task."""
