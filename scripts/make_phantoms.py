"""Write phantom radiographs with exact boxes and masks, in the layout of this project or of a real data set.

    python scripts/make_phantoms.py --out data/phantoms --n 2000 --size 256 --difficulty clear
    python scripts/make_phantoms.py --out data/phantom_dicom --n 20 --format dicom --sheet sheet.png
    python scripts/make_phantoms.py --out data/FracAtlas --layout fracatlas --n 400 --regions hand,knee --workers 4
    python scripts/make_phantoms.py --out data/BTXRD --layout btxrd --n 400 --conditions normal,lytic,osteochondroma
    python scripts/make_phantoms.py --out data/SNUH-bonetu --layout snuh --n 400
    python scripts/make_phantoms.py --out data/mura --layout mura --n 400

The layouts of real data sets have their own formats, regions and views. The same flags give the same bytes, whatever
the number of workers.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
from pathlib import Path

from core.flags import Parser, finish
from core.system.os_errors import naming
from core.progress import bar, say

REGION_NAMES = (
    "hand",
    "wrist",
    "elbow",
    "shoulder",
    "hip",
    "femur",
    "knee",
    "ankle",
    "foot",
    "chest",
)
LAYOUT_NAMES = (
    "folder",
    "fracatlas",
    "btxrd",
    "mura",
    "grazpedwri",
    "rsna_bone_age",
    "knee_oa",
    "pes_planus",
    "snuh",
)
PICTURES = (".png", ".jpg", ".jpeg")
CONDITION_NAMES = (
    "normal",
    "fracture",
    "lytic",
    "sclerotic",
    "osteochondroma",
    "implant",
    "arthrosis",
)


def names(choices: tuple[str, ...]):
    """Argument type: a comma-separated list of some of the choices."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(word for word in text.replace(" ", ",").split(",") if word)
        for word in chosen:
            if word not in choices:
                raise argparse.ArgumentTypeError(
                    f"must be one or several of {', '.join(choices)}, not {word!r}"
                )
        return chosen

    return parse


def at_least(low: int):
    """Argument type: a whole number not below `low`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low}, not {text!r}")
        return value

    parse.__name__ = "int"
    return parse


def fraction(text: str) -> float:
    """Argument type: a number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, not {text!r}")
    return value


def picture_name(text: str) -> Path:
    """Argument type: the name of a picture to write."""
    if Path(text).suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(
            f"must be a name that ends in {' or '.join(PICTURES)}, not {text!r}"
        )
    return Path(text)


def build_parser() -> Parser:
    """Flags of this script, as --a_b and --a-b."""
    parser = Parser(usage="%(prog)s --out PATH [flags]", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to write; must be empty or new (required)")
    add("--layout", choices=LAYOUT_NAMES, default="folder", help="on-disk layout [folder]")
    add("--n", type=at_least(1), default=100, help="number of images [100]")
    add("--seed", type=at_least(0), default=0, help="everything is drawn from it [0]")
    add("--size", type=at_least(32), default=512, help="long side in pixels [512]")
    add(
        "--format",
        choices=("png16", "png8", "jpeg", "dicom"),
        default=None,
        help="of the folder layout [png16]",
    )
    add(
        "--difficulty",
        choices=("clear", "hard"),
        default="hard",
        help="size and contrast of lesions, pose, regions [hard]",
    )
    for flag, known, default in (
        ("--regions", REGION_NAMES, "the difficulty's"),
        ("--conditions", CONDITION_NAMES, "all"),
    ):
        add(
            flag,
            type=names(known),
            default=(),
            metavar="A,B",
            help=f"of {', '.join(known)}; default: {default}",
        )
    add(
        "--condition_fraction",
        "--condition-fraction",
        type=fraction,
        default=None,
        metavar="FLOAT",
        help="share of patients that are not normal, 0 to 1; default: all conditions alike",
    )
    add(
        "--field",
        type=float,
        default=1.0,
        metavar="FLOAT",
        help="side of the field as a share of the whole radiograph's: squares near the finding, or where one might be, "
        "as a small detector sees them; 0.1 to 1, the whole radiograph [1]",
    )
    add(
        "--traps",
        action="store_true",
        help="plant what real releases hold: copies, a patient in two studies, a lost picture, ...",
    )
    add("--workers", type=at_least(1), default=1, help="processes [1]")
    add(
        "--overwrite",
        action="store_true",
        help="write into a folder that holds files; others than ours stay",
    )
    add(
        "--sheet",
        type=picture_name,
        default=None,
        metavar="FILE.png",
        help="also write a contact sheet of the first 24, lesions outlined below",
    )
    return parser


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    if args.layout != "folder" and args.format is not None:
        parser.error(
            f"layout {args.layout} has its own format; --format {args.format} is for the folder layout"
        )

    if args.layout != "folder" and args.field != 1:
        parser.error(
            f"layout {args.layout} has whole radiographs; --field {args.field:g} is for the folder layout"
        )
    if args.layout == "folder" and args.traps:
        parser.error("the folder layout has no traps; --traps is for the layouts of real data sets")

    from core.system.offline import stay_offline

    stay_offline()
    from phantoms.layouts.files import check_empty, mark_phantoms
    from phantoms.layouts.registry import WRITERS, fit_plan
    from phantoms.plan import Plan, phantoms
    from phantoms.sheet import contact_sheet
    from core.files import check_output, make_folder

    plan = Plan(
        args.seed,
        args.size,
        args.difficulty,
        args.regions,
        args.conditions,
        args.condition_fraction,
        field=args.field,
    )
    kind = args.format or ("png16" if args.layout == "folder" else "jpeg")
    examples = []
    plan = fit_plan(args.layout, plan)
    check_empty(args.out, args.overwrite)
    if args.sheet:
        make_folder(args.sheet.parent)
        check_output(args.sheet)
    with naming(args.out):
        writer = WRITERS[args.layout](
            args.out, kind, args.seed, **({"traps": True} if args.traps else {})
        )
        for phantom in bar("phantoms", "radiograph")(
            phantoms(plan, args.n, args.workers), total=args.n
        ):
            writer.add(phantom)
            if args.sheet and len(examples) < 24:
                examples.append(phantom)
        writer.close()
        mark_phantoms(args.out)
    if args.sheet:
        with naming(args.sheet):
            contact_sheet(examples).save(args.sheet)
    say(f"{args.n} radiographs in {args.out}{', and traps' if args.traps else ''}")


if __name__ == "__main__":
    finish(main, set())
