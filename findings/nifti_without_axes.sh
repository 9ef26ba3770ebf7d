#!/usr/bin/env bash
# A NIfTI file may leave both of its statements of orientation unset (qform_code and sform_code 0). One expects a reader to
# say that nothing is known, or to follow the standard's method 1, in which no axis is turned.
# Both nibabel and ITK give ordinary-looking axes instead, without a flag, and not the same ones: nibabel says left,
# anterior, superior, and ITK says left, posterior, superior. Brought to one orientation (RAS), the same file is mirrored
# front to back between the two, so an image prepared with one does not fit a mask prepared with the other.
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
stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
nibabel.save(nibabel.Nifti1Image(stored, None), sys.argv[1])

one = nibabel.load(sys.argv[1])
assert (int(one.header["qform_code"]), int(one.header["sform_code"])) == (0, 0)
axes = "".join(nibabel.aff2axcodes(one.affine))
by_nibabel = nibabel.as_closest_canonical(one).get_fdata()

two = SimpleITK.ReadImage(sys.argv[1])
itk_axes = SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(two.GetDirection())
by_itk = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(two, "RAS")).transpose(2, 1, 0)

print(f"the file says nothing of its axes; nibabel: {axes}; ITK: {itk_axes}")
print(f"as RAS they agree: {np.array_equal(by_nibabel, by_itk)}")
print(f"as RAS they are mirrored front to back: {np.array_equal(by_nibabel, by_itk[:, ::-1])}")
assert (axes, itk_axes) == ("LAS", "LPS")
assert np.array_equal(by_nibabel, stored[::-1])
assert np.array_equal(by_itk, stored[::-1, ::-1])
PYTHON
