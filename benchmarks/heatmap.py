"""Error maps of a ViT-L on a folder of radiographs, against the loop that SKELEX published, with matplotlib figures.

    python benchmarks/heatmap.py --images 4 --passes 10 --rounds 2

The yardstick is transformers' ViTMAE as installed: for each pass of each radiograph the processor, one forward of a
batch of one, the error; then an overlay and a panel by matplotlib (PNGs only, where the original also writes PDF and
SVG). Ours is `zero_shot_heatmap.py` from its list of files to index.html, the loading of the network left out on both
sides. Both get the same masks first and must give the same maps; then ours again with bf16 and with four complementary
masks. "outside the network" is ours with a network that answers at once.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import tempfile
from dataclasses import dataclass
from pathlib import Path

from core.flags import flag, run

TOLERANCE = 1e-5  # of the maps, on pixels in [0, 1]
OURS = {
    "ours, same masks": {},
    "ours, same masks, bf16": {"precision": "bf16"},
    "ours, 4 complementary masks": {"passes": 4, "masks": "complementary"},
    "ours, 4 complementary masks, bf16": {
        "passes": 4,
        "masks": "complementary",
        "precision": "bf16",
    },
}


@dataclass
class Config:
    """Time error maps of a folder of radiographs."""

    size: str = flag("large", "encoder size (decoder 512 x 8, 224 pixels, random weights)")
    images: int = flag(4, "radiographs")
    height: int = flag(2000, "pixels of a radiograph")
    width: int = flag(1500, "pixels of a radiograph")
    passes: int = flag(10, "masks for each radiograph")
    rounds: int = flag(2, "rounds; in each, every variant maps all radiographs")
    threads: int = flag(1, "processor threads of the network")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")


def main(config: Config) -> int:
    """Print one line for each variant."""
    import time

    import torch

    from benchmarks.paired import device_clock, report, seconds_of
    from core.system.device import choose_device

    torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(config, device, Path(folder))
        bench.check_equal()
        variants = {"a pass at a time, matplotlib": bench.loop}
        variants |= {
            name: lambda changes=changes: bench.ours(**changes) for name, changes in OURS.items()
        }
        case = f"ViT-{config.size}, {config.images} radiographs of {config.height} x {config.width}"
        seconds = seconds_of(variants, config.rounds, device_clock(device))
        report(case, seconds, "a pass at a time, matplotlib", per=config.images)

        outside = {
            "a pass at a time, matplotlib": lambda: bench.loop(idle=True),
            "ours": lambda: bench.ours(idle=True),
        }
        for name, clock in (
            ("processor time", time.process_time),
            ("time on the wall", time.perf_counter),
        ):
            seconds = seconds_of(outside, config.rounds, clock)
            report(
                f"outside the network, {name}",
                seconds,
                "a pass at a time, matplotlib",
                per=config.images,
            )
    return 0


class Bench:
    """A folder of radiographs, and the same network twice."""

    def __init__(self, config: Config, device, folder: Path):
        import numpy as np
        import torch
        from PIL import Image
        from transformers import ViTImageProcessorPil, ViTMAEForPreTraining

        from benchmarks.reader import synthetic
        from data.views.preprocessing import Preprocessing
        from models.networks.mae import MaskedAutoencoder, named_config
        from models.weights.checkpoint import save_mae

        self.config = config
        self.device = device
        self.folder = folder
        self.maps = {}
        torch.manual_seed(0)
        architecture = named_config(f"mae_vit_{config.size}_patch16")
        height, width = architecture.input_size
        network = MaskedAutoencoder(architecture)
        save_mae(
            network,
            folder / "model",
            Preprocessing(height=height, width=width).to_dict(),
            "for a benchmark",
        )
        self.theirs = ViTMAEForPreTraining.from_pretrained(folder / "model").eval().to(device)
        self.processor = ViTImageProcessorPil.from_pretrained(folder / "model")
        generator = np.random.default_rng(0)
        (folder / "in").mkdir()
        for number in range(config.images):
            picture = synthetic(config.height, config.width, generator)
            Image.fromarray((picture * 255).astype(np.uint8)).save(folder / "in" / f"{number}.png")
        self.studies: dict = {}
        self.study()

    def study(self, **changes):
        """What `zero_shot_heatmap.py` prepares, once for each variant; the network is shared."""
        import contextlib
        import io

        import zero_shot_heatmap
        from workflows.heatmaps import maps

        key = tuple(sorted(changes.items()))
        if key not in self.studies:
            flags = {
                "model_path": self.folder / "model",
                "in_dirs": [self.folder / "in"],
                "out": self.folder / "out",
            }
            flags |= {
                "passes": self.config.passes,
                "overwrite": True,
                "device": self.config.device,
                "scale": "cohort",
            }
            with contextlib.redirect_stdout(io.StringIO()):
                study = maps.prepare(zero_shot_heatmap.Config(**flags | changes))
            if self.studies:
                study.model = next(iter(self.studies.values())).model
            study.progress = lambda title, total: _Silent()
            self.studies[key] = study
        return self.studies[key]

    def ours(self, idle: bool = False, **changes) -> None:
        """`zero_shot_heatmap.py` from files to page."""
        import shutil

        from workflows.heatmaps import maps
        from workflows.heatmaps.report import drawn, write_results
        from workflows.heatmaps.study import measured
        from core.files import printable
        from core.system.device import prepare_device

        prepare_device(self.device)
        study = self.study(**changes)
        shutil.rmtree(study.config.out, ignore_errors=True)
        study.config.out.mkdir()
        network = study.model
        if idle:
            study.model = _Idle(network)
        try:
            failed: list = []
            sources = maps.find_sources(study.config.in_dirs, True, study.config.out, failed)
            records = {record["path"]: record for record in measured(study, sources, [], failed)}
            cards, tops = drawn(study, sources, records, failed)
            write_results(
                study,
                study.settings,
                [records[printable(s.path)] for s in sources],
                cards,
                tops,
                failed,
            )
        finally:
            study.model = network

    def loop(self, idle: bool = False) -> None:
        """The published way, with the masks that ours draws."""
        import numpy as np
        import torch
        from PIL import Image

        from workflows.heatmaps import maps
        from benchmarks.steps import as_installed
        from workflows.heatmaps.study import masks_of

        as_installed()
        study = self.study()
        out = self.folder / "loop"
        out.mkdir(exist_ok=True)
        sources = maps.find_sources([self.folder / "in"], True, out, [])
        mean, std = (
            torch.tensor(v).view(3, 1, 1)
            for v in (self.processor.image_mean, self.processor.image_std)
        )
        patches = self.theirs.config.image_size // self.theirs.config.patch_size
        side = self.theirs.config.patch_size
        for source in sources:
            with Image.open(source.path) as picture:
                pixels = np.asarray(picture).astype(np.float32)
            pixels = ((pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255).astype(
                np.uint8
            )
            colour = Image.fromarray(np.repeat(pixels[..., None], 3, 2))
            total = 0.0
            hits = 0.0
            shown = []
            for visible in masks_of(study, source):
                inputs = self.processor(images=colour, return_tensors="pt")["pixel_values"].to(
                    self.device
                )
                noise = torch.ones(1, patches**2)
                noise[0, visible] = torch.linspace(0, 0.5, len(visible))
                if idle:
                    logits = torch.zeros(1, patches**2, side * side * 3)
                    mask = (noise > 0.5).float()
                else:
                    with torch.no_grad():
                        answer = self.theirs(inputs, noise=noise.to(self.device))
                    logits = answer.logits
                    mask = answer.mask
                predicted = (self.theirs.unpatchify(logits)[0].cpu() * std + mean).clamp(0, 1)
                truth = (inputs[0].cpu() * std + mean).clamp(0, 1)
                hidden = self.theirs.unpatchify(
                    mask.cpu()[..., None].expand(-1, -1, side * side * 3)
                )[0, 0]
                total = total + (predicted - truth).square().mean(0) * hidden
                hits = hits + hidden
                shown.append(
                    (truth.mean(0), hidden, (predicted * hidden + truth * (1 - hidden)).mean(0))
                )
            error_map = torch.where(hits > 0, total / hits.clamp(min=1), 0).numpy()
            self.maps[source.name] = error_map
            self.draw(out / source.name, pixels, error_map, shown[: study.config.panel_passes])

    def draw(self, path: Path, pixels, error_map, shown: list) -> None:
        """An overlay and a panel of a few passes by matplotlib."""
        import matplotlib
        import numpy as np
        from PIL import Image

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        height, width = pixels.shape
        large = np.asarray(
            Image.fromarray(error_map).resize((width, height), Image.Resampling.BILINEAR)
        )
        figure, axes = plt.subplots(figsize=(8, 8 * height / width))
        axes.imshow(pixels, cmap="gray")
        drawn = axes.imshow(large, cmap="hot", alpha=0.55)
        figure.colorbar(drawn)
        axes.axis("off")
        figure.savefig(path.with_name(path.stem + "_hotspot.png"), dpi=100)
        plt.close(figure)
        figure, grid = plt.subplots(len(shown), 4, figsize=(12, 3 * len(shown)))
        for row, (truth, hidden, pasted) in zip(grid, shown):
            tiles = (truth, truth * (1 - hidden), pasted, (pasted - truth).square())
            for axes, tile, colours in zip(row, tiles, ("gray", "gray", "gray", "hot")):
                axes.imshow(tile, cmap=colours)
                axes.axis("off")
        figure.savefig(path, dpi=100)
        plt.close(figure)

    def check_equal(self) -> None:
        """The same masks give the same maps."""
        import numpy as np
        import torch

        from data.views.preprocessing import Preprocessing
        from evaluation.maps.error_maps import error_maps
        from workflows.heatmaps.study import Source, masks_of

        self.loop()
        study = self.study()
        self.ours()
        preprocessing = Preprocessing(height=224, width=224)
        for name, map_of_loop in self.maps.items():
            source = Source(self.folder / "in" / name, name)
            pixels = preprocessing.fit(preprocessing.read(source.path))[None].to(self.device)
            maps = error_maps(
                study.model,
                preprocessing.normalise(pixels),
                masks_of(study, source)[None],
                mean=preprocessing.mean,
                std=preprocessing.std,
            ).maps[0]
            difference = float(np.abs(maps - map_of_loop).max())
            if difference > TOLERANCE:
                raise AssertionError(f"{name}: the maps differ by {difference:.3g}")
        torch.manual_seed(0)


class _Idle:
    """A network that answers at once: what is left is everything else."""

    def __init__(self, network):
        self.network = network

    def __getattr__(self, name: str):
        return getattr(self.network, name)

    def embed(self, images):
        return images.new_zeros(len(images), self.network.config.patches, 1)

    def reconstruct_tokens(self, tokens, visible):
        values = 3 * self.network.patch_size**2
        return tokens.new_zeros(1, 1, 1).expand(len(tokens), self.network.config.patches, values)


class _Silent:
    """A progress bar that shows nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass

    def update(self, *_) -> None:
        pass

    def close(self) -> None:
        pass


if __name__ == "__main__":
    run(main, Config)
