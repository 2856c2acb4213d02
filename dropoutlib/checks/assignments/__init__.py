"""What a right answer to each code question of the assignments must satisfy.

The inputs, rates and seeds come from the checker's seed. In a notebook the seed is 0, for everybody to see; at grading
time it is derived from the instructor's private key. The properties are the same.
"""

from dropoutlib.checks.assignments import gradient_proof, placement, reproducible_streams, sick_model, two_dropouts

__all__ = ["gradient_proof", "placement", "reproducible_streams", "sick_model", "two_dropouts"]
