"""AutoMTL (Zhang et al., NeurIPS 2022): each convolution of a backbone is shared, a task's own, or skipped."""
