"""Planted canaries: does the code that trains keep the epsilon it claims? An empirical lower bound beside the claim.

results     what an audit found: one strict model, one JSON form (needs no torch)
suite       which audits a run makes, and their verdicts        planted     mistakes that a self-test must catch
white_box   canaries with gradients of their own                black_box   mislabelled records in a whole round
game        one patient, present or absent, in many trainings   tally       coins, guesses and their count
bounds      the theorems     curve   what the accountant claims of every event     verdict   from a tally to a bound
"""
