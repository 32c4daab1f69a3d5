#!/usr/bin/env bash
# Hardens a start in several ways for the same compute, two seeds each, and attacks what comes of it on the first eight pictures of
# Kodak: the paper's stage I alone, its stage II whole and without each of its parts, plain adversarial training, and `fast`.
#
#     DATA=/path/to/data scripts/ablations.sh weights/hyper-control runs/ablations results [PASSES]
#
# DATA holds train/, cid22-val/ and kodak/; PASSES are those of benchmarks/hardening.py, 10,000 if they are not given. What is done is
# not done again. The rows go into results/results.jsonl, those of a model before the next one is made.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
start=${1:?give a bundle to begin with}
runs=${2:?give a folder for the runs}
results=${3:?give a folder for the results}
passes=${4:-10000}
pictures=(--data "${DATA:?set DATA to the folder that holds train/, cid22-val/ and kodak/}/train" --validation "$DATA/cid22-val")
second=("fast" "ma2023" "stage II" "stage II without smooth_loss" "stage II without the teacher"
  "stage II without smooth_latents" "stage II without smooth_bpp")

mkdir -p "$runs/models" "$runs/first/kodak"
ln -sf "$(realpath "$DATA")"/kodak/kodim0[1-8].png "$runs/first/kodak/"

attack() { # a model
  local evaluate=(robustcodec evaluate --models "$1" -q 4 -o "$results")
  local crops=("${evaluate[@]}" --data "$runs/first/kodak" --crop 256 --precision bfloat16)
  "${evaluate[@]}" --data "$DATA/kodak" --attacks none
  "${crops[@]}" --attacks paper:psnr,strong:psnr,offset:psnr --steps 200
  "${crops[@]}" --attacks paper:bpp,strong:bpp,noise:bpp --steps 100
}

harden() { # a teacher, an idea, a seed
  local run=${2// /-}-$3
  local model=${run,,}
  model=$runs/models/${model//_/-}
  python benchmarks/hardening.py "${pictures[@]}" --init "$start" --teacher "$1" -o "$runs" \
    --only "$2" --seeds "$3" --passes "$passes" --steps 30
  [ -e "$model" ] || robustcodec export "$runs/$run" -o "$model" --id "$(basename "$model")"
  attack "$model"
}

harden "$start" "stage I" 0
for seed in 0 1; do
  for idea in "${second[@]}"; do harden "$runs/stage-I-0" "$idea" "$seed"; done
done
harden "$start" "stage I" 1
attack "$start"
