#!/usr/bin/env bash
# What pretraining buys, and what it does not: `bash scripts/evidence.sh [FOLDER]` writes docs/evidence.md.
# Three seeds (phantoms, initial weights and labelled subsets all differ), 30-60 minutes on two cores. Each run is
# also measured at a tenth and at a third of its length. A second call continues what is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
OUT="${1:-evidence}"
SEEDS=(${SEEDS:-0 1 2})
TRAIN=${TRAIN:-6000} TEST=${TEST:-800} EPOCHS=${EPOCHS:-18}
REGIONS=knee,wrist

for seed in "${SEEDS[@]}"; do
    run="$OUT/seed$seed"
    for set in "train $TRAIN $((10 + seed))" "test $TEST $((20 + seed))" "watch 64 $((30 + seed))"; do
        read -r name count drawn <<< "$set"
        [ -f "$run/$name/records.csv" ] || python scripts/make_phantoms.py --out "$run/$name" --overwrite \
            --layout folder --n "$count" --seed "$drawn" --size 160 --format png8 --difficulty clear \
            --regions "$REGIONS" --workers 2
    done
    steps=$((EPOCHS * (TRAIN / 48)))
    for part in 10 3 1; do
        evaluation="$run/evaluation_$part"
        [ -f "$evaluation/results.md" ] && continue
        python pretrain_mae.py --config configs/phantom_mae.yaml --data_path "$run/train/images" \
            --val_path "$run/watch/images" --output_dir "$run/mae" --seed "$seed" --epochs "$EPOCHS" \
            --max_steps $((steps / part))
        if [ "$part" = 1 ]; then
            parts=(reconstruction localisation probes dense finetune) labels=(50 200 1000)
        else
            parts=(reconstruction localisation finetune) labels=(200)
        fi
        python scripts/evaluate_pretraining.py --model_path "$run/mae/model" --train "$run/train" --test "$run/test" \
            --out "$evaluation" --seed "$seed" --parts "${parts[@]}" --labels "${labels[@]}"
    done
done
python scripts/evidence_table.py --runs "$OUT"/seed* --out docs/evidence.md
