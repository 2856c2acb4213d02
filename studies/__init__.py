"""Slow experiments: each module is a script that stores its results where `dropoutlib.stored` finds them."""
