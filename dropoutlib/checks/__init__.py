"""Checks for the reader: `check` marks an exercise, `identify` finds out what a dropout layer does.

A chapter's exercises live in the module of the chapter's name. To add a chapter, write that module and import it here.
"""

from dropoutlib.checks import gradient_flow, inference, standard_vs_inverted
from dropoutlib.checks.exercises import Result, check
from dropoutlib.checks.identification import Identity, identify

__all__ = ["Identity", "Result", "check", "gradient_flow", "identify", "inference", "standard_vs_inverted"]
