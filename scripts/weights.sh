#!/usr/bin/env bash
# Makes one of our models from the pictures alone, in weights/NAME: training, export, and the guard's contract.
#
#     DATA=/path/to/data scripts/weights.sh hyper-robust [RUNS]
#
# DATA holds train/ and cid22-val/ (docs/data/ lists their files), RUNS the runs (default: runs/). A run that was
# interrupted goes on where it was; models that others begin with must be there: base comes first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=${1:?give a name: hyper-base, -teacher, -robust, -ma2023, -control, cheng-base or cheng-robust}
runs=${2:-runs}
pictures=(--data "${DATA:?set DATA to the folder that holds train/ and cid22-val/}/train" --validation "$DATA/cid22-val")
recipes=scripts/recipes

train() { robustcodec train "${pictures[@]}" "$@"; }
harden() {
  robustcodec harden "${pictures[@]}" -o "$runs/$name" "$@"
  rm -rf "weights/$name"
  cp -r "$runs/$name/model" "weights/$name"
}
contract() { robustcodec models contract "weights/$name" --data "$DATA/train" --most 345; }

case $name in
  hyper-base)
    # one run at a constant rate, then two that let it fall: later runs begin with earlier averages
    train --recipe $recipes/base-first.json -o "$runs/base-2"
    train --qualities 1-6 --steps 8000 --init "$runs/base-2" -o "$runs/base-3"
    train --qualities 1-6 --steps 12000 --init "$runs/base-3" -o "$runs/base-4"
    robustcodec export "$runs/base-4" -o "weights/$name"
    contract
    ;;
  hyper-control)
    train --start conventional --channels 64,96 -q 4 --steps 14000 -o "$runs/control"
    robustcodec export "$runs/control" -o "weights/$name" --variant control
    ;;
  hyper-teacher) harden --init weights/hyper-base --recipe $recipes/teacher.json --stage 1 ;;
  hyper-ma2023) harden --init weights/hyper-base --method ma2023 ;;
  hyper-robust)
    harden --init weights/hyper-base
    contract
    ;;
  cheng-base)
    train --arch cheng --init weights/hyper-base --recipe $recipes/cheng-start.json -o "$runs/cheng-start"
    train --init "$runs/cheng-start" --recipe $recipes/cheng-base.json -o "$runs/cheng-base"
    robustcodec export "$runs/cheng-base" -o "weights/$name"
    contract
    ;;
  cheng-robust)
    harden --init weights/cheng-base
    contract
    ;;
  *)
    echo "there is no $name" >&2
    exit 2
    ;;
esac
robustcodec models verify "weights/$name"
