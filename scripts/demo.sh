#!/usr/bin/env bash
# Watch a masked autoencoder learn radiographs and point at lesions: `bash scripts/demo.sh [FOLDER]`.
# Sets up .venv on the first run; then about 8 minutes on two cores. Everything it makes is in FOLDER (default: demo),
# and a second run continues what is there. No download of data or weights: the radiographs are phantoms.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
OUT="${1:-demo}"
REGIONS=knee,wrist
TRAIN=${TRAIN:-3000} EPOCHS=${EPOCHS:-20} FLAGS=${FLAGS:-} # FLAGS: of the evaluation, to try the script

echo "== 1/4 drawing phantom radiographs"
for set in "train $TRAIN 1" "test 160 2" "watch 48 3" "score 800 4"; do
    read -r name count seed <<< "$set"
    [ -f "$OUT/$name/records.csv" ] || python scripts/make_phantoms.py --out "$OUT/$name" --overwrite --layout folder \
        --n "$count" --seed "$seed" --size 160 --format png8 --difficulty clear --regions "$REGIONS" --workers 2
done

echo "== 2/4 pretraining without labels"
python pretrain_mae.py --config configs/phantom_mae.yaml --data_path "$OUT/train/images" \
    --val_path "$OUT/watch/images" --output_dir "$OUT/mae" --epochs "$EPOCHS" \
    --licence "none needed (phantoms drawn by phantoms/study.py)"

echo "== 3/4 error maps of radiographs it has not seen, with exact truth"
python zero_shot_heatmap.py --model-path "$OUT/mae/model" --in-dirs "$OUT/test/images" --out "$OUT/heatmaps" \
    --passes 8 --masks complementary --truth "$OUT/test/records.csv" --resume

echo "== 4/4 does pretraining pay? reconstruction, and fine-tuning with few labels"
# shellcheck disable=SC2086
python scripts/evaluate_pretraining.py --model_path "$OUT/mae/model" --train "$OUT/train" --test "$OUT/score" \
    --out "$OUT/evaluation" --parts reconstruction finetune --tasks implant --labels 200 $FLAGS

echo
echo "Look at:"
echo "  $OUT/heatmaps/index.html      error maps, sorted by score, with the localisation table"
echo "  $OUT/mae/panels/              what it reconstructs, epoch by epoch"
echo "  $OUT/mae/curves.png           the learning curves"
echo "  $OUT/evaluation/index.html    what pretraining gains, in words and tables"
