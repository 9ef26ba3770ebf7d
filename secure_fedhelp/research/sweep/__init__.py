"""Many runs of one study: methods, budgets and seeds.

runs      what is to be run: one frozen value a run, with an identity of its own
execute   one run: simulated with every lock, or in plain for speed; and the rivals that need no study
store     a folder that remembers every finished run, and the tables made of it
engines   where runs are executed: processes of this machine, or a Ray cluster
"""
