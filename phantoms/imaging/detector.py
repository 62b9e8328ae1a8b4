"""From thickness to picture: attenuation, scatter, noise, window, marker and collimation.

Thickness is attenuated by the Beer-Lambert law at two energies, which is enough for beam hardening to make metal and
thick bone look right. Attenuation coefficients: Hubbell and Seltzer, NISTIR 5632 (NIST Standard Reference Database
126), muscle, adipose tissue and cortical bone of ICRU report 44, and titanium, times their densities, at 40 and 60 keV.

H, W: rows and columns.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from phantoms.body.patient import Difficulty
from phantoms.body.solids import F
from phantoms.imaging.camera import Camera
from phantoms.imaging.filters import blur, low_pass
from phantoms.imaging.projection import Thickness

ATTENUATION_PER_MM = {  # at 40 and 60 keV
    "muscle": (0.0285, 0.0217),
    "fat": (0.0228, 0.0188),
    "bone": (0.128, 0.0604),
    "metal": (0.997, 0.345),
}
SPECTRUM = (0.45, 0.55)  # share of the detected quanta at each energy, in air
LUNG_AIR = 0.74  # fraction of a lung's thickness that does not attenuate


def detect(
    maps: Thickness,
    body: np.ndarray,
    lean: np.ndarray,
    camera: Camera,
    rng: np.random.Generator,
    level: Difficulty,
) -> np.ndarray:
    """Quanta reaching the detector relative to the open beam, [H, W], with scatter, blur and noise."""
    size = max(camera.shape)
    lost = np.minimum(maps.air * F(LUNG_AIR), F(0.72) * lean)
    muscle = np.maximum(lean - lost + np.minimum(maps.soft, lost) * F(0.85) - maps.bone * F(0.8), 0)
    fat = np.maximum(body - lean, 0)
    beam = np.zeros(camera.shape, F)
    for energy, share in enumerate(SPECTRUM):
        mu = {material: F(values[energy]) for material, values in ATTENUATION_PER_MM.items()}
        path = (
            mu["muscle"] * muscle
            + mu["fat"] * fat
            + mu["bone"] * maps.bone
            + mu["metal"] * maps.metal
        )
        beam += F(share) * np.exp(-path)
    beam += (
        F(rng.uniform(0.05, 0.22)) * low_pass(beam, 0.09 * size) * np.clip(body * F(1 / 120), 0, 1)
    )  # scatter needs a body
    beam = blur(beam, float(rng.uniform(0.4, 0.65)) * size / 256)
    heel = rng.normal(0, 0.05, 2)  # the heel effect: the beam falls off across the field
    rows, columns = (np.linspace(-0.5, 0.5, side, dtype=F) for side in camera.shape)
    beam *= (1 + F(heel[0]) * columns) * (1 + F(heel[1]) * rows)[:, None]
    quanta = float(np.exp(rng.uniform(*np.log(level.photons)))) * (256 / size) ** 1.2
    return np.maximum(
        beam + rng.standard_normal(camera.shape, dtype=F) * np.sqrt(beam / F(quanta)), F(2e-4)
    )


def marker(camera: Camera, letter: str, rng: np.random.Generator) -> np.ndarray:
    """A lead letter near a corner, [H, W] in 0..1."""
    size = max(camera.shape)
    height = max(int(size * rng.uniform(0.045, 0.075)), 6)
    font = ImageFont.load_default()
    left, top, right, bottom = font.getbbox(letter)
    glyph = Image.new("L", (max(int(right - left), 1), max(int(bottom - top), 1)))
    ImageDraw.Draw(glyph).text((-left, -top), letter, fill=255, font=font)
    glyph = glyph.resize(
        (max(round(height * glyph.width / glyph.height), 4), height), Image.Resampling.BICUBIC
    )
    inset = camera.border + 0.03 * size
    x = inset[0] if rng.random() < 0.5 else camera.shape[1] - inset[2] - glyph.width
    y = inset[1] if rng.random() < 0.7 else camera.shape[0] - inset[3] - glyph.height
    canvas = Image.new("L", (camera.shape[1], camera.shape[0]))
    canvas.paste(glyph, (int(x), int(y)))
    return np.asarray(canvas, F) / 255


def open_field(camera: Camera, rng: np.random.Generator) -> np.ndarray | None:
    """The collimated field, [H, W] in 0..1 with soft edges; None if the whole detector is open."""
    if not camera.border.any():
        return None
    left, top, right, bottom = camera.border
    height, width = camera.shape
    lean = rng.normal(0, 0.02)
    x = np.arange(width, dtype=F) + F(0.5)
    y = (np.arange(height, dtype=F) + F(0.5))[:, None]
    u = x + F(lean) * (y - height / 2)
    v = y - F(lean) * (x - width / 2)
    distance = np.minimum(
        np.minimum(u - left, width - right - u), np.minimum(v - top, height - bottom - v)
    )
    return np.clip(distance * F(0.7) + F(0.5), 0, 1)


def present(
    beam: np.ndarray,
    maps: Thickness,
    camera: Camera,
    rng: np.random.Generator,
    letter: str,
    latitude: float,
) -> np.ndarray:
    """The picture: logarithm, detail enhancement, window, gamma, marker and collimation; uint16 over the full range."""
    density = -np.log(beam)
    base = low_pass(density, 0.07 * max(camera.shape))
    enhance = rng.uniform(0.1, 0.55)  # what radiography systems do to compress thick and thin parts
    density = density + F(enhance) * (density - base) - F(0.35 * enhance) * base
    sample = density[::3, ::3][maps.metal[::3, ::3] < 0.1]
    low, high = np.percentile(sample, [1.5, 99.6])
    low = max(low, high - latitude * rng.uniform(0.85, 1.15))
    tone = (density - F(low)) / F(max(high - low, 0.05)) * F(rng.uniform(0.92, 1.02)) + F(
        rng.uniform(0, 0.03)
    )
    tone = np.clip(tone, 0, 1) ** F(rng.uniform(0.85, 1.2))
    if rng.random() < 0.75:
        tone = np.maximum(tone, marker(camera, letter, rng) * F(rng.uniform(0.8, 1.0)))
    field = open_field(camera, rng)
    if field is not None:
        tone = tone * field
        maps.mask &= field > 0.5
    tone = tone - tone.min()
    return (tone * F(65535 / max(float(tone.max()), 1e-3)) + F(0.5)).astype(np.uint16)
