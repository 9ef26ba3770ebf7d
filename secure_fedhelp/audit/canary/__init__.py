"""Planted canaries: does the code that trains keep the epsilon it claims? An empirical lower bound beside the claim.

results     what an audit found: one strict model, one JSON form
"""
