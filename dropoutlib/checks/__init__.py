"""Checks for the reader: `check` marks an exercise, `progress` sums up, `identify` finds out what a layer does.

A chapter's exercises live in the module of the chapter's name. To add a chapter, write that module and import it here.
"""

from dropoutlib.checks import (
    assignments,
    batch_norm,
    bugs_in_the_wild,
    deployment,
    determinism,
    does_it_help,
    frameworks,
    gradient_flow,
    inference,
    masks,
    standard_vs_inverted,
    uncertainty,
    variants,
)
from dropoutlib.checks.exercises import Progress, Result, check, progress
from dropoutlib.checks.identification import Identity, identify

__all__ = [
    "Identity",
    "Progress",
    "Result",
    "assignments",
    "batch_norm",
    "bugs_in_the_wild",
    "check",
    "deployment",
    "determinism",
    "does_it_help",
    "frameworks",
    "gradient_flow",
    "identify",
    "inference",
    "masks",
    "progress",
    "standard_vs_inverted",
    "uncertainty",
    "variants",
]
