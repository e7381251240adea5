"""TensorRT: engines that are built where they run, proved there, and never loaded unchecked. Needs no torch."""
