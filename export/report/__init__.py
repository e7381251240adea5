"""`bmtas report`: a run, or several side by side, as one HTML file that needs nothing else. Needs no torch."""
