"""Tests of `dropoutlib.frameworks`, on the same three architectures in every framework."""
