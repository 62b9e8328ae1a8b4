"""What the benchmarks are wanted to reach, and what stands in the way where it is missed; see run_all.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A figure we want: `key` of the rows of one variant reaches `value` (from above if `at_most`)."""

    script: str
    variant: str  # or way of masking
    key: str
    value: float
    missed: str  # what stands in the way where it is missed
    case: str = ""  # how the case begins
    at_most: bool = False

    def reached(self, found: float) -> bool:
        """Whether `found` is good enough."""
        return found <= self.value if self.at_most else found >= self.value


FLOAT32 = (
    "The goal supposes a processor on which oneDNN, which ours chooses, multiplies float32 matrices about twice as "
    "fast as MKL, which the library as installed uses (AMD Zen 5). On another one the gain is the ratio of the two "
    "peaks above, and what the work that is saved brings: fewer copies, and only hidden rows in the last decoder block."
)
BFLOAT16 = (
    "Both run at two thirds of their peaks or more, so what can be gained is bounded by the ratio of the bf16 peak "
    "to the float32 peak of the library as installed, above, and the work that is saved. With `--compile` it is more."
)
SHARE = "Small matrices, attention, norms and the optimizer take the rest; larger batches come closer to the peak."
READING = (
    "The goals come from SKELEX's whole training transform, which also rotates at full size; here only reading is "
    "compared, and Pillow's decoding and resizing, which both sides need, are most of what is left. Ours also verifies "
    "checksums and content."
)
OUTSIDE = (
    "About 0.07 s of it is the PNG encoding of the overlay and the panel by Pillow, the rest decoding, the resize to "
    "full size and the page; it runs in threads beside the network, so a run waits for it only where the network is "
    "faster than that."
)
SPREAD = "Eight passes reach it, four come close and cost half; `--passes 8` is there for those who need it."
MAP = (
    "The network takes nearly all of the time on both sides, in float32 as in the step above; `--precision bf16` makes "
    "the difference where the processor has it, see the table."
)
TUNING = (
    "The goals come from a processor (AMD Zen 5) on which oneDNN multiplies float32 matrices about twice, and bf16 "
    "more than four times, as fast as MKL does float32. Elsewhere both are bounded by the ratio of their peak to the "
    "float32 peak of the library as installed, above: matrix products are more than four fifths of the step, and both "
    "sides come close to their peaks. What else can be saved is: of the last block only the class token is made."
)
BONE_AGE = (
    "The goals come from a processor (AMD Zen 5) on which oneDNN multiplies float32 matrices about twice as fast as "
    "MKL. Seven tenths or more of the time are matrix products, so that elsewhere the gain is bounded by the ratio of "
    "the peaks above; the depthwise convolutions and the GELU are the rest, and other memory formats bring 1 to 3 %."
)
MULTICROP = (
    "Most of the step are the matrix products of the two networks, which both sides need, so that the ratio is "
    "bounded by the ratio of our peak to the float32 peak of the library as installed, above; the goals come from a "
    "processor (AMD Zen 5) on which the first is about twice, in bf16 more than four times, the second. What else is "
    "saved here: the last block but for its class token, a softmax for every pair of views, and separate kernels for "
    "every parameter."
)
FROZEN = (
    "What a command costs once (start-up, checks of the data, statistics, page) weighs most with few radiographs or a "
    "small encoder."
)
CACHED = (
    "Half of the time from memory is the rotation (bilinear, all pixels), the rest is brightness, contrast, the random "
    "numbers of the radiograph and the batch; smaller files are decoded faster, and the ratio is smaller for them."
)
LOADED = ("16-bit PNG", "8-bit PNG", "grey JPEG", "RGB JPEG")
HELP = "Python itself takes most of it; the machine was busy, or its disk slow."
GOALS = (
    Goal("mae_step.py", "ours, fp32", "ratio", 1.8, FLOAT32),
    Goal("mae_step.py", "ours, bf16", "ratio", 3.0, BFLOAT16),
    Goal("mae_step.py", "ours, bf16", "against_same_precision", 1.3, BFLOAT16),
    Goal("mae_step.py", "ours, fp32", "peak_share", 0.65, SHARE),
    Goal("mae_step.py", "ours, bf16", "peak_share", 0.60, SHARE),
    Goal("heatmap.py", "ours, same masks", "ratio", 2.5, MAP),
    Goal("heatmap.py", "ours, 4 complementary masks", "ratio", 7.5, MAP),
    Goal("heatmap.py", "ours", "seconds", 0.1, OUTSIDE, case="outside", at_most=True),
    Goal("reader.py", "ours", "ratio", 1.4, READING, case="16-bit PNG"),
    Goal("reader.py", "ours", "ratio", 2.0, READING, case="8-bit PNG"),
    Goal("reader.py", "ours", "ratio", 2.7, READING, case="grey JPEG"),
    Goal("finetune_step.py", "ours, fp32", "ratio", 1.9, TUNING, case="ViT-large"),
    Goal("finetune_step.py", "ours, bf16", "ratio", 3.3, TUNING, case="ViT-large"),
    Goal("bone_age_step.py", "ours, fp32", "ratio", 1.6, BONE_AGE, case="training"),
    Goal("bone_age_step.py", "ours, bf16", "ratio", 2.5, BONE_AGE, case="training"),
    Goal("bone_age_step.py", "ours, fp32", "ratio", 2.2, BONE_AGE, case="prediction"),
    Goal("bone_age_step.py", "ours, bf16", "ratio", 4.0, BONE_AGE, case="prediction"),
    Goal("dino_step.py", "ours, fp32", "ratio", 1.9, MULTICROP),
    Goal("dino_step.py", "ours, bf16", "ratio", 3.3, MULTICROP),
    Goal("linear_protocol.py", "ours", "ratio", 100, FROZEN),
    Goal("linear_protocol.py", "ours, fp32", "ratio", 100, FROZEN),
    *(Goal("loader.py", "ours, from memory", "ratio", 100, CACHED, case=kind) for kind in LOADED),
    Goal("start_up.py", "scripts/train_downstream.py --help", "seconds", 0.15, HELP, at_most=True),
    Goal("masks.py", "complementary, 4 passes", "correlation", 0.95, SPREAD),
    Goal("masks.py", "complementary, 4 passes", "difference", -0.01, SPREAD),
)
