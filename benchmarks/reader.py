"""Reading one radiograph, file to network input, against Pillow with a min-max in floats at full size.

    python benchmarks/reader.py --height 2500 --width 2000 --rounds 5

The yardstick is what `load_rgb_8bit` of SKELEX and its evaluation transform do: decode, stretch in float32, three
channels, resize, normalise. Ours is `load_radiograph` (with all its checks) and `Preprocessing`. Both results are
compared first. DICOM is timed for ours alone, against the same pixels as a PNG.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import tempfile
from dataclasses import dataclass
from pathlib import Path

from core.flags import flag, run

PLAIN = ("16-bit PNG", "8-bit PNG", "grey JPEG", "RGB JPEG")
TOLERANCE = 1.01 / 255 / 0.224  # one grey level of 256, normalised


@dataclass
class Config:
    """Time reading and preparing one radiograph, by format."""

    height: int = flag(2500, "pixels of the radiograph")
    width: int = flag(2000, "pixels of the radiograph")
    files: int = flag(3, "radiographs in a round")
    rounds: int = flag(5, "rounds; in each, every variant reads every radiograph")


def main(config: Config) -> int:
    """Print one line for each format and variant."""
    import torch

    from benchmarks.paired import report, seconds_of

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), config)
        for kind in PLAIN:
            check_equal(kind, files[kind][0])
            variants = {
                "Pillow, floats": lambda kind=kind: [plainly(path) for path in files[kind]],
                "ours": lambda kind=kind: [ours(path) for path in files[kind]],
                "decoding alone": lambda kind=kind: [decoded(path) for path in files[kind]],
            }
            report(kind, seconds_of(variants, config.rounds), "Pillow, floats", per=config.files)
        variants = {
            kind: lambda kind=kind: [ours(path) for path in files[kind]]
            for kind in files
            if "RGB" not in kind
        }
        report("formats, ours", seconds_of(variants, config.rounds), "16-bit PNG", per=config.files)
    return 0


def write_files(folder: Path, config: Config) -> dict[str, list[Path]]:
    """{format: files} with the same pictures: smooth shapes under detector noise, 12 bits deep where a format can."""
    import numpy as np
    from PIL import Image

    files: dict[str, list[Path]] = {}
    generator = np.random.default_rng(0)
    for number in range(config.files):
        picture = synthetic(config.height, config.width, generator)
        deep = (picture * 4095).astype(np.uint16)
        grey = Image.fromarray((picture * 255).astype(np.uint8))
        colour = Image.merge("RGB", [grey] * 3)

        def add(kind: str, name: str, write, number=number) -> None:
            path = folder / f"{number}_{name}"
            write(path)
            files.setdefault(kind, []).append(path)

        add("16-bit PNG", "deep.png", Image.fromarray(deep).save)
        add("8-bit PNG", "grey.png", grey.save)
        add("grey JPEG", "grey.jpg", lambda path, grey=grey: grey.save(path, quality=92))
        add("RGB JPEG", "rgb.jpg", lambda path, colour=colour: colour.save(path, quality=92))
        for kind, syntax in (
            ("DICOM", None),
            ("DICOM, JPEG 2000", "JPEG2000Lossless"),
            ("DICOM, RLE", "RLELossless"),
        ):
            add(
                kind,
                f"{kind[-3:].strip()}.dcm",
                lambda path, deep=deep, syntax=syntax: dicom(path, deep, syntax),
            )
    return files


def synthetic(height: int, width: int, generator):
    """Smooth shapes under detector noise: a picture [height, width] in [0, 1] that compresses like a radiograph."""
    import numpy as np
    from PIL import Image

    coarse = Image.fromarray(generator.random((25, 20)).astype(np.float32))
    picture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    picture = picture + generator.normal(0, 0.01, picture.shape)
    return (picture - picture.min()) / (picture.max() - picture.min())


def dicom(path: Path, pixels, syntax: str | None) -> None:
    """A 12-bit MONOCHROME2 radiograph, compressed if a transfer syntax is named."""
    from pydicom import uid
    from pydicom.dataset import Dataset, FileMetaDataset

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = uid.generate_uid()
    dataset.Modality = "DX"
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SamplesPerPixel = 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored = 12
    dataset.HighBit = 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.tobytes()
    if syntax:
        dataset.compress(getattr(uid, syntax), generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


def plainly(path: Path):
    """Decode, stretch in float32 at full size, three channels, resize, normalise: [3, 224, 224]."""
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(path) as picture:
        pixels = np.asarray(picture).astype(np.float32)
    low = pixels.min()
    high = pixels.max()
    pixels = np.clip((pixels - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    colour = Image.fromarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2))
    small = np.asarray(colour.resize((224, 224), Image.Resampling.BILINEAR))
    tensor = torch.from_numpy(small.copy()).permute(2, 0, 1).float() / 255
    mean = torch.tensor([0.485, 0.456, 0.406])
    std = torch.tensor([0.229, 0.224, 0.225])
    return (tensor - mean[:, None, None]) / std[:, None, None]


def ours(path: Path):
    """The same through this project's reader: [3, 224, 224]."""
    from data.views.preprocessing import Preprocessing

    preprocessing = Preprocessing(height=224, width=224)
    return preprocessing.normalise(preprocessing.fit(preprocessing.read(path))[None])[0]


def decoded(path: Path) -> None:
    """What no reader can save."""
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()


def check_equal(kind: str, path: Path) -> None:
    """Both ways end within one grey level of each other."""
    difference = float((plainly(path) - ours(path)).abs().max())
    if difference > TOLERANCE:
        raise AssertionError(f"{kind}: the two ways differ by {difference:.3g}")


if __name__ == "__main__":
    run(main, Config)
