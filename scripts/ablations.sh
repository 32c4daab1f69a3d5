#!/usr/bin/env bash
# Hardens a start in several ways for the same compute, two seeds each, and attacks what comes of it: the paper's stage I alone, its
# stage II whole and without each of its parts, plain adversarial training, and `fast`.
#
#     DATA=/path/to/data scripts/ablations.sh weights/hyper-control runs/ablations results [PASSES]
#
# DATA holds train/, cid22-val/ and kodak/; PASSES are those of benchmarks/hardening.py, 10,000 if they are not given. What is done is
# not done again. The rows go into results/results.jsonl.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
start=${1:?give a bundle to begin with}
runs=${2:?give a folder for the runs}
results=${3:?give a folder for the results}
passes=${4:-10000}
pictures=(--data "${DATA:?set DATA to the folder that holds train/, cid22-val/ and kodak/}/train" --validation "$DATA/cid22-val")
seeds=(0 1)
first=("stage I")
second=("stage II" "stage II without smooth_loss" "stage II without smooth_latents" "stage II without smooth_bpp"
  "stage II without the teacher" "ma2023" "fast")

harden() { # a teacher, and ideas
  local teacher=$1 only
  shift
  only=$(printf '%s;' "$@")
  python benchmarks/hardening.py "${pictures[@]}" --init "$start" --teacher "$teacher" -o "$runs" \
    --only "${only%;}" --seeds "${seeds[@]}" --passes "$passes" --steps 30
}

harden "$start" "${first[@]}"
harden "$runs/stage-I-0" "${second[@]}"

models=$start
for idea in "${first[@]}" "${second[@]}"; do
  for seed in "${seeds[@]}"; do
    run=${idea// /-}-$seed
    name=${run,,}
    name=${name//_/-}
    [ -e "$runs/models/$name" ] || robustcodec export "$runs/$run" -o "$runs/models/$name" --id "$name"
    models+=,$runs/models/$name
  done
done
attack() { robustcodec evaluate --data "$DATA/kodak" --crop 256 --models "$models" --precision bfloat16 -o "$results" "$@"; }
attack --attacks paper:psnr,strong:psnr --steps 200
attack --attacks paper:bpp,strong:bpp --steps 100
