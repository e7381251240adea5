"""The proof of an export: the same images through PyTorch and through the exported file, compared. Needs no torch."""
