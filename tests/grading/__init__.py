"""Tests of grading/ and of the assignments."""
