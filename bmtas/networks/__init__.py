"""Networks: backbones through a small adapter, heads, the supergraph of the search and the network of a merged graph."""
