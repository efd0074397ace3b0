"""Molecules as tensors: reading tables, featurising once, batching fast, splitting, encoding, pretraining.

Importing the package itself imports nothing heavy; worker processes need RDKit and NumPy only.
"""
