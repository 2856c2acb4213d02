"""Side-by-side timings of dropout in one process on one core: `make bench`."""
