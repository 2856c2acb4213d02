"""Tests of the book's pipeline."""
