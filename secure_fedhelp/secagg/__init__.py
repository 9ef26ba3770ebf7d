"""Secure aggregation: named CKKS profiles, what travels, the study key, sealing it to a hospital. numpy in, numpy out.

``profiles``, ``packing`` and ``versions`` need numpy only: the coordinator adds integers modulo a prime and imports
nothing else of this room.
"""
