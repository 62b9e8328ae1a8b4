#!/usr/bin/env bash
# What DINO learns on phantoms: `bash scripts/dino_evidence.sh [FOLDER]`, about 40 minutes on two cores.
# A ResNet-18 is pretrained by configs/phantom_dino.yaml, once on whole radiographs at 96 pixels, once on small fields at 64.
# Region, fracture and implant are then told from its frozen features on phantoms of other patients, by nearest neighbours
# and by a linear model, beside the same network with random weights, and with random weights whose batch norms have seen
# the radiographs. FOLDER/FIELD/TASK/PROTOCOL/csv has report.html and comparisons.csv, with intervals over patients;
# FOLDER/FIELD/dino/curves.png the meters of a collapse. A second call continues what is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
OUT="${1:-dino_evidence}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
TEST=${TEST:-6000} FLAGS=${FLAGS:-} # FLAGS: of both pretrainings, to try the script

phantoms() { # FOLDER COUNT SEED FLAGS
    [ -f "$1/records.csv" ] || python scripts/make_phantoms.py --out "$1" --overwrite --n "$2" --seed "$3" --difficulty clear \
        --regions shoulder,elbow,hip,knee,ankle,wrist --conditions normal,fracture,implant "${@:4}"
}

pretrain() { # FOLDER NAME SIZE EPOCHS FLAGS
    # shellcheck disable=SC2086
    python scripts/pretrain_dino.py --config configs/phantom_dino.yaml --data_path "$1/train/images" \
        --output_dir "$1/$2" --global_size "$3" --epochs "$4" --precision auto \
        --licence "none needed (phantoms drawn by phantoms/study.py)" "${@:5}" $FLAGS
}

study() { # FIELD TRAIN SEED SIZE VIEW EPOCHS
    local out="$OUT/$1" task protocol
    mkdir -p "$out/features"
    phantoms "$out/train" "${TRAIN:-$2}" "$3" --size "$4" --field "$1"
    phantoms "$out/test" "$TEST" "$(($3 + 2))" --size "$4" --field "$1"
    python - "$out/test" <<'PYTHON'
import sys

import pandas as pd

rows = pd.read_csv(f"{sys.argv[1]}/records.csv", dtype=str)
fracture = rows["condition"].map({"normal": "no", "fracture": "yes"})  # empty: beside an implant nobody knows
implant = (rows["condition"] == "implant").map({True: "yes", False: "no"})
rows = rows.assign(fracture=fracture, implant=implant)
rows[["image", "patient", "region", "fracture", "implant"]].to_csv(f"{sys.argv[1]}/labels.csv", index=False)
PYTHON
    pretrain "$out" dino "$5" "$6"
    pretrain "$out" norms "$5" "$6" --lr 0 --min_lr 0 --weight_decay 0 --weight_decay_end 0 --max_steps 40 --panel_freq 0
    for task in region:multiclass fracture:binary implant:binary; do
        for protocol in knn linear; do
            mkdir -p "$out/${task%:*}/$protocol/csv"
            ln -sfn "$(realpath "$out/features")" "$out/${task%:*}/$protocol/csv/features" # computed once
            python scripts/train_downstream.py --data csv --csv "$out/test/labels.csv" --target_col "${task%:*}" \
                --task "${task#*:}" --patient_col patient --protocol "$protocol" --test_split 0.5 --label_fraction 0.1 1 \
                --backbones "$out/dino/model" "none:$out/dino/model" "$out/norms/model" --num_workers 1 \
                --outdir "$out/${task%:*}/$protocol"
        done
    done
}

trap 'for job in $(jobs -p); do kill "$job" 2>/dev/null || true; done' EXIT
mkdir -p "$OUT"
study 1 2550 200 192 96 8 > "$OUT/whole.log" 2>&1 &
first=$!
study 0.4 4000 300 96 64 12 > "$OUT/small.log" 2>&1 &
wait "$first" && wait $! || { echo "a study failed; see the end of its log in $OUT" >&2; exit 1; }
for field in 1 0.4; do
    for task in region fracture implant; do
        for protocol in knn linear; do
            cut -d, -f1-6 "$OUT/$field/$task/$protocol/csv/comparisons.csv"
        done
    done
done
