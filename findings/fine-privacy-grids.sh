#!/usr/bin/env bash
# dp-accounting rounds privacy losses up to a grid, and a finer grid is to give a tighter bound on epsilon.
# Expected: each halving of value_discretization_interval lowers epsilon or leaves it, and probabilities add up to 1.
# What happens: down to about 1e-6 they do. On finer grids the probabilities of one step, which are differences of
# figures near one over the interval, drown in rounding: they add up to more than 1, and epsilon rises again.
# Why it matters: small sampling rates need a grid below the default of 1e-4 (on that epsilon is a third too large), so
# an accountant has to choose its grid between two faults. "As fine as memory allows" is the wrong rule.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check dp-accounting==0.6.0

"$folder/venv/bin/python" - <<'PY'
import math
import sys
from importlib.metadata import version

from dp_accounting.pld import privacy_loss_distribution as pld

RATE, NOISE, STEPS, DELTA = 1e-3, 21.54, 10_000, 1e-6
print(f"dp-accounting {version('dp-accounting')}; rate {RATE:g}, noise {NOISE:g}, {STEPS} steps, delta {DELTA:g}")
found = {}
for interval in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
    one = pld.from_gaussian_mechanism(NOISE, value_discretization_interval=interval, sampling_prob=RATE)
    dense = one._pmf_remove.to_dense_pmf()
    mass = math.fsum(dense._probs) + dense._infinity_mass
    found[interval] = mass, one.self_compose(STEPS).get_epsilon_for_delta(DELTA)
    print(f"interval {interval:g}: probabilities of one step add up to 1 {mass - 1:+.1e}, epsilon {found[interval][1]:.6f}")
coarse, right, finest = found[1e-4][1], found[1e-6][1], found[1e-8][1]
sys.exit(0 if coarse > 1.3 * right and finest > 1.05 * right and found[1e-8][0] - 1 > 1e-5 else 1)
PY
echo "as described: epsilon falls as the grid gets finer, and then rises again"
