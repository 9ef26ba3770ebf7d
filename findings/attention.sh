#!/usr/bin/env bash
# Opacus refuses nn.MultiheadAttention and tells the user to put its own DPMultiheadAttention in its place.
# Expected: with the same weights the replacement answers the same. What happens: with batch_first=True and more than
# one head its outputs are others, off by as much as the outputs themselves, although it takes the weights without a word;
# with one head, or with the sequence first, they are the same.
# Why it matters: a network whose attention was replaced as advised is another network, and a pretrained one is spoilt.
# After projecting, the replacement splits heads as if the sequence came first (layers/dp_multihead_attention.py).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 opacus==1.6.0

"$folder/venv/bin/python" - <<'PY'
import sys
import warnings

import opacus
import torch
from opacus.layers import DPMultiheadAttention
from opacus.validators import ModuleValidator

warnings.simplefilter("ignore")
print(f"opacus {opacus.__version__}, torch {torch.__version__}")
said = str(ModuleValidator.validate(torch.nn.MultiheadAttention(8, 2), strict=False))
print(f"validator: {said}")


def apart(heads: int, batch_first: bool) -> float:
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(8, heads, batch_first=batch_first)
    replacement = DPMultiheadAttention(8, heads, batch_first=batch_first)
    replacement.load_state_dict(theirs.state_dict())
    inputs = torch.randn(3, 5, 8)
    with torch.no_grad():
        return float((theirs(inputs, inputs, inputs)[0] - replacement(inputs, inputs, inputs)[0]).abs().max())


seen = {(heads, first): apart(heads, first) for heads in (1, 2, 4) for first in (False, True)}
for (heads, first), difference in seen.items():
    print(f"{heads} head(s), batch_first={first}: outputs differ by {difference:.2g}")
as_described = all((difference > 0.1) == (first and heads > 1) for (heads, first), difference in seen.items())
sys.exit(0 if as_described and "DPMultiheadAttention" in said else 1)
PY
echo "as described: with batch_first and several heads the replacement is another function"
