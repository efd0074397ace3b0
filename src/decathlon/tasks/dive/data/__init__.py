"""Datasets with a shift: GOOD-Motif, molecules from SMILES, files of the benchmark, and graphs of one's own."""
