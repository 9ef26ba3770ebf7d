"""The second lock: masks that cancel in the cohort's sum (Bonawitz et al., CCS 2017), from kept primitives."""
