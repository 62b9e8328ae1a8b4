#!/usr/bin/env bash
# What regions buy, and what they do not: `bash scripts/region_evidence.sh [FOLDER]`, about 45 minutes on two cores.
# Two region-guided classifiers of the same size and budget on phantoms: one learns from whole radiographs and crops, the
# other from whole radiographs alone. Both are judged on phantoms of other patients, the first with the marks as regions
# (nobody has them before a diagnosis: an upper bound) and with windows. report.html and comparisons.csv in FOLDER/marks
# and FOLDER/windows say what came out. A second call continues what is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
OUT="${1:-region_evidence}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
TRAIN=${TRAIN:-3600} TEST=${TEST:-1600} EPOCHS=${EPOCHS:-20}

phantoms() { # NAME COUNT SEED
    [ -f "$OUT/$1/metadata.csv" ] || python scripts/make_phantoms.py --out "$OUT/$1" --overwrite --layout snuh \
        --n "$2" --seed "$3" --size 512 --workers 2
}

train() { # NAME SHARE_OF_WHOLE_RADIOGRAPHS
    python train_region_guided.py --snuh_bonetu_image_dir "$OUT/train/images" \
        --snuh_bonetu_metadata "$OUT/train/metadata.csv" --pretrained_path none:resnet18 --input_size 96 --lr 1e-3 \
        --batch_size 32 --epochs "$EPOCHS" --n_splits 5 --fold 0 --whole "$2" --precision auto --num_workers 0 \
        --no-verbose --output_dir "$OUT/trained_$1" > "$OUT/$1.log" 2>&1
}

judge() { # NETWORK NAME FLAGS
    python scripts/validate_region_guided.py --model_path "$OUT/trained_$1" --num_workers 0 \
        --snuh_bonetu_image_dir "$OUT/test/images" --snuh_bonetu_metadata "$OUT/test/metadata.csv" \
        --output_dir "$OUT/$2" "${@:3}"
}

mkdir -p "$OUT"
phantoms train "$TRAIN" 11
phantoms test "$TEST" 13
trap 'for job in $(jobs -p); do kill "$job" 2>/dev/null || true; done' EXIT
train regions 0.5 &
first=$!
train whole 1.0 &
wait "$first" && wait $! || { echo "a training failed; see the end of its log in $OUT" >&2; exit 1; }
judge whole whole --regions none
for kind in marks:annotation windows:sliding; do
    judge regions "${kind%:*}" --regions "${kind#*:}" --against "trained on whole radiographs=$OUT/whole"
    cut -d, -f1-8 "$OUT/${kind%:*}/comparisons.csv"
done
