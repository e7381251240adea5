"""Dynamic topologies (after Choi & Im, CVPR 2023): a graph of states in which every task keeps its own links."""
