"""What this machine is, and how it is doing while something is measured on it. Reads only; needs no torch."""
