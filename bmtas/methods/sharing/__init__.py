"""Networks that share by a fixed rule, nothing searched: Cross-Stitch, NDDR-CNN, MTAN, Sluice."""
