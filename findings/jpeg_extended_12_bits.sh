#!/usr/bin/env bash
# DICOM's "JPEG Extended" is for pixels of 12 bits. pydicom 3 gives them to no decoder of a free licence: Pillow has none, and
# for GDCM it raises "GDCM does not support 'JPEG Extended' for samples with 12-bit precision".
# GDCM does: the same frame, of pydicom's own test file, comes out right if GDCM is told of 12 allocated bits. Told of the 16 that
# DICOM prescribes, it writes an error to the terminal, tries again, and is right too.
# So a hospital with such files is sent to a decoder under the GPL, or converts its archive, without need.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check pydicom==3.0.2 numpy==2.4.6 pillow==13.0.0 python-gdcm==3.2.6
"$folder/env/bin/python" - <<'PYTHON'
import logging

import gdcm
import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.encaps import get_frame

logging.disable(logging.CRITICAL)
data = pydicom.dcmread(get_testdata_file("JPGExtended.dcm"))
try:
    data.pixel_array
    refused = ""
except RuntimeError as error:
    refused = str(error)

fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
fragment.SetByteStringValue(get_frame(data.PixelData, 0, number_of_frames=1))
fragments.AddFragment(fragment)
element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
element.SetValue(fragments.__ref__())
image = gdcm.Image()
image.SetNumberOfDimensions(2)
image.SetDimensions((data.Columns, data.Rows, 1))
image.SetDataElement(element)
grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(data.file_meta.TransferSyntaxUID)))
image.SetPixelFormat(gdcm.PixelFormat(1, 12, 12, 11, 0))
pixels = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), dtype="<u2").reshape(data.Rows, data.Columns)
print(f"pydicom {pydicom.__version__}: {refused.splitlines()[-1].strip() if refused else 'read'}")
print(f"GDCM {gdcm.Version.GetVersion()}: pixel (420, 140) is {pixels[420, 140]}, (230, 120) is {pixels[230, 120]}, largest {pixels.max()}")
assert "12-bit precision" in refused
assert (pixels[420, 140], pixels[230, 120], pixels.max()) == (244, 95, 264)
PYTHON
