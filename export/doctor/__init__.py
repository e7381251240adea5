"""What this machine can do, and what keeps it from doing more. Reads only: nothing is installed or changed; needs no torch."""
