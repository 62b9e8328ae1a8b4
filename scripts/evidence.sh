#!/usr/bin/env bash
# What pretraining buys, and what it does not: `bash scripts/evidence.sh [FOLDER]` writes docs/evidence.md.
# Three seeds (phantoms, initial weights and labelled subsets all differ), about 80 minutes on two cores: JOBS seeds at a
# time (default: one per core), each with its share of the cores. Each run is also looked at after a tenth and a third of
# its length. A second call continues what is there. The recipe was chosen on other phantoms (seeds below 100).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
OUT="${1:-evidence}"
SEEDS=(${SEEDS:-0 1 2})
CORES=$(nproc)
JOBS=${JOBS:-$((CORES < ${#SEEDS[@]} ? CORES : ${#SEEDS[@]}))}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((CORES / JOBS > 0 ? CORES / JOBS : 1))}
TRAIN=${TRAIN:-6000} TEST=${TEST:-800} EPOCHS=${EPOCHS:-24}
FLAGS=${FLAGS:-} # of the evaluations, to try the script
REGIONS=knee,wrist

one_seed() {
    local seed=$1 run="$OUT/seed$1" set name count drawn part evaluation options
    for set in "train $TRAIN $((1000 + seed))" "test $TEST $((2000 + seed))" "watch 64 $((3000 + seed))"; do
        read -r name count drawn <<< "$set"
        [ -f "$run/$name/records.csv" ] || python scripts/make_phantoms.py --out "$run/$name" --overwrite \
            --layout folder --n "$count" --seed "$drawn" --size 160 --format png8 --difficulty clear \
            --regions "$REGIONS" --workers 1
    done
    local steps=$((EPOCHS * (TRAIN / 48)))
    for part in 10 3 1; do
        evaluation="$run/evaluation_$part"
        [ -f "$evaluation/results.md" ] && continue
        python pretrain_mae.py --config configs/phantom_mae.yaml --batch_size 48 --data_path "$run/train/images" \
            --val_path "$run/watch/images" --output_dir "$run/mae" --seed "$seed" --epochs "$EPOCHS" \
            --max_steps $((steps / part)) --licence "none needed (phantoms drawn by phantoms/study.py)"
        if [ "$part" = 1 ]; then
            options=(--parts reconstruction localisation probes dense finetune --labels 50 200 1000)
        else
            options=(--parts reconstruction localisation finetune --labels 200 --tasks implant --starts pretrained)
        fi
        # shellcheck disable=SC2086
        python scripts/evaluate_pretraining.py --model_path "$run/mae/model" --train "$run/train" --test "$run/test" \
            --out "$evaluation" --seed "$seed" "${options[@]}" $FLAGS
    done
}

mkdir -p "$OUT"
settings="train $TRAIN, test $TEST, epochs $EPOCHS, regions $REGIONS, phantoms from 1000"
if [ -f "$OUT/settings.txt" ] && [ "$(cat "$OUT/settings.txt")" != "$settings" ]; then
    echo "$OUT was made with other settings ($(cat "$OUT/settings.txt")); give another folder" >&2
    exit 2
fi
echo "$settings" > "$OUT/settings.txt"
set -m # each seed is a process group of its own, which ends with this script
trap 'for group in $(jobs -p); do kill -- "-$group" 2>/dev/null || true; done' EXIT
trap 'exit 130' INT TERM
started=()
for seed in "${SEEDS[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do sleep 1; done
    echo "seed $seed: $OUT/seed$seed.log"
    (set -e; one_seed "$seed") >> "$OUT/seed$seed.log" 2>&1 &
    started+=($!)
done
for process in "${started[@]}"; do
    wait "$process" || { echo "a seed failed; see the end of its log in $OUT" >&2; exit 1; }
done
python scripts/evidence_table.py --runs "${SEEDS[@]/#/$OUT/seed}" --out docs/evidence.md
