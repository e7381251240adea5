"""MTL-NAS (Gao et al., CVPR 2020): which features of other tasks are fused into the layers of one's own backbone."""
