"""Opening DICOM files: bounded, quiet, and with a named error whatever a damaged one makes of a library."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secure_fedhelp.data.dicom_pixels import DEFLATED
from secure_fedhelp.data.dicom_tags import Tags
from secure_fedhelp.data.volume import UNREADABLE
from secure_fedhelp.errors import FedHelpError, InvalidData
from secure_fedhelp.study.reading import VOLUME, open_bounded, require_fit, said_by

#: A deflated file is unpacked as a whole, so it is measured first.
LARGEST_DEFLATED = 2**29
#: An element longer than this is left in the file until somebody asks for it: headers have none.
_LARGE = 2**20
_STEP = 2**20
_AGAIN = "Export or fetch it again, or leave it out. Nothing was spent."
_PLAIN = "Save it uncompressed (Explicit VR Little Endian). Nothing was spent."


@contextmanager
def reads_named(path: Path) -> Iterator[None]:
    """InvalidData with the reason for whatever a library raises, and no lines of libraries on the terminal.

    Their warnings stay warnings: whoever reads many files says each once.
    """
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except FedHelpError:
        raise
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror or error}", UNREADABLE) from error
    except Exception as error:  # a malformed file: pydicom raises many kinds
        raise InvalidData(f"{path}: a damaged DICOM file, or none: {said_by(error)}", _AGAIN) from error
    finally:
        logger.setLevel(level)


def read_header(path: Path, where: str) -> Tags:
    """All elements before the pixels; raises InvalidData, or what pydicom raises."""
    from pydicom import dcmread

    if not path.is_file():
        raise InvalidData(f"{path}: {'no regular file' if path.exists() else 'no such file'}", UNREADABLE)
    require_fit(path, VOLUME)
    # What is left in the file is read from there later, where deflated bytes are others.
    defer = None if _deflated(path, where) else _LARGE
    return Tags(dcmread(path, force=True, stop_before_pixels=True, defer_size=defer), where)


def _deflated(path: Path, where: str) -> bool:
    """Whether a file is deflated; InvalidData for one that unpacks to more than is read.

    It is unpacked here in steps that are thrown away: pydicom unpacks all of it at once.
    """
    from pydicom.filereader import read_file_meta_info

    with open_bounded(path, VOLUME) as file:
        if file.read(132)[128:] != b"DICM":  # no file meta information, so not deflated
            return False
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") != DEFLATED:
            return False
        length_of_head = Tags(meta, where).whole("FileMetaInformationGroupLength")
        if length_of_head is None or length_of_head < 0:
            raise InvalidData(f"{where}: deflated, and it does not say where (FileMetaInformationGroupLength)", _PLAIN)
        file.seek(132 + 12 + length_of_head)
        unpacker, length = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while (packed := file.read(_STEP)) and not unpacker.eof:
            while packed:
                length += len(unpacker.decompress(packed, _STEP))
                if length > LARGEST_DEFLATED:
                    raise InvalidData(
                        f"{where}: unpacks to more than {LARGEST_DEFLATED} bytes", "Save it uncompressed."
                    )
                packed = unpacker.unconsumed_tail
    return True
