"""Measuring one aggregation: what it costs in seconds, bytes and memory, beside plain floats and other projects.

settings    what is measured, and whether this machine can
results     one strict model of what was measured, and its JSON
material    keys, contributions and bodies of a cohort, made before the clock runs
sealed      our round in one process          wired       our round through a real coordinator over mutual TLS
plaintext   the same sum of float32 in clear  peers       other projects, run by their own Python
memory      peak memory of the coordinator's work, in a process of its own
suite       all of them in turn, repeated     sweep       over hospitals and values, with extrapolation
table, plots
noise       a private step's noise, beside Opacus' default
training    a private step beside a plain one, for each of the ways in modes to its gradients
"""
