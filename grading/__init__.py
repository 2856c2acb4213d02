"""For instructors: makes assignments of their sources, and marks answers.

Not part of dropoutlib's wheel. `python -m grading --help` lists the commands; grading/README.md explains them.
"""

from grading.hidden import hidden

__all__ = ["hidden"]
