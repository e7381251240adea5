"""The community's data sets in the form in which they are downloaded; nothing is ever written into their folders.

One module per data set. Each has `detect(root)`, which tells from the files that are there whether `root` is its data set and
which of the circulating variants, and names the variant; `bmtas.data.downloads.detect` asks them all.
"""
