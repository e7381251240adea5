"""`bmtas bench`: latency and energy of exported networks in their runtimes, with what the numbers support. Needs no torch."""
