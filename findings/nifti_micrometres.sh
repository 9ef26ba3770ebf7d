#!/usr/bin/env bash
# NIfTI files say in which unit their lengths are (xyzt_units), and microscopes write micrometres. nibabel documents its
# affine as going to millimetres, so one expects voxels of 500 micrometres to be 0.5 there.
# nibabel leaves the numbers as they are: the affine and the zooms say 500. ITK reads the same file as 0.5 mm. An image
# and a mask of one grid, one written in micrometres and one in millimetres, are therefore 1000 times apart by nibabel's
# affines, and whatever resamples by them makes another volume than ITK does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/scan.nii" <<'PYTHON'
import sys

import nibabel
import numpy as np
import SimpleITK

print(f"nibabel {nibabel.__version__}, SimpleITK {SimpleITK.Version().VersionString()}")
made = nibabel.Nifti1Image(np.zeros((2, 3, 4), dtype=np.int16), np.diag([500.0, 500.0, 1000.0, 1.0]))
made.header.set_xyzt_units("micron")
nibabel.save(made, sys.argv[1])

one = nibabel.load(sys.argv[1])
two = SimpleITK.ReadImage(sys.argv[1])
print(f"unit in the file: {one.header.get_xyzt_units()[0]}")
print(f"nibabel's affine: {np.diag(one.affine)[:3].tolist()}, zooms {[float(zoom) for zoom in one.header.get_zooms()]}")
print(f"ITK's spacing in mm: {list(two.GetSpacing())}")
assert one.header.get_xyzt_units()[0] == "micron"
assert np.diag(one.affine)[:3].tolist() == [500.0, 500.0, 1000.0]
assert np.allclose(two.GetSpacing(), [0.5, 0.5, 1.0])
PYTHON
