#!/usr/bin/env bash
# An enhanced CT keeps its slope and intercept in functional groups, one for each frame, as the standard requires.
# One would expect pydicom's apply_modality_lut to give Hounsfield units, as it does for a classic CT, or an error.
# It looks at the root of the file only, and returns the stored numbers without a word: here they are off by 1024.
# A network that was trained on classic files sees air as water.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check pydicom==3.0.2 numpy==2.4.6
"$folder/env/bin/python" - <<'PYTHON'
import warnings

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

stored = np.full((2, 2), 24, dtype=np.int16)  # air: -1000 Hounsfield units at an intercept of -1024


def image(kind: str) -> Dataset:
    data = Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.Rows, data.Columns, data.NumberOfFrames = kind, 2, 2, 1
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelData = stored.tobytes()
    return data


classic, enhanced = image(CTImageStorage), image(EnhancedCTImageStorage)
scale, group = Dataset(), Dataset()
for data in (classic, scale):
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
group.PixelValueTransformationSequence = [scale]
enhanced.PerFrameFunctionalGroupsSequence = [group]
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    values = [float(apply_modality_lut(data.pixel_array, data).flat[0]) for data in (classic, enhanced)]
print(f"pydicom {pydicom.__version__}: air is {values[0]} in a classic CT, {values[1]} in an enhanced one; warnings: {len(said)}")
assert values == [-1000, 24], values
assert not said
PYTHON
