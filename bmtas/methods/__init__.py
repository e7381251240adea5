"""The ways to an architecture: the paper's search, and the baselines that it is held against.

One module per method or family of methods; each has a class that implements `bmtas.methods.finder.Finder`.
"""
