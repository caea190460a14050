#!/usr/bin/env bash
# Everything that is measured on a GPU host, stage by stage; stops at the first thing that fails.
#
#   benchmarks/gpu/measure.sh STAGE ...      # train archive build score decode torch parity int8 kill soak
#
# OUT          where images, engines and figures go (/tmp/measured); figures are lines of OUT/figures.jsonl
# TORCH        the Python that trains and runs the PyTorch baseline
# TENSORRT     the Python that scores
# REAL         a folder of real strips for the parity (none)
# STEPS        of training (2000)
# SOAK_LINES   how often the 65,536 images are scored in a row in the soak (22, about eight minutes)
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-/tmp/measured} TORCH=${TORCH:-python3} TENSORRT=${TENSORRT:-python3} REAL=${REAL:-}
export PYTHONUNBUFFERED=1
mkdir -p "$OUT/log"

version() { ls "$OUT/$1/registry/$2" | grep -v aliases | head -1; }
engine() { echo "$2-$(version "$1" "$2")"; }
figure() { tee -a "$OUT/figures.jsonl"; }
score() { # STORE ENGINE PRECISION IMAGES [FLAGS]: engine alone, in process, score
  "$TENSORRT" -m benchmarks.gpu.score --store "$OUT/$1" --engine "$2" --precision "$3" \
    --images "$4" "${@:5}" | figure
}
shapes() { # STORE SHAPE [FLAGS]
  "$TORCH" -m benchmarks.gpu.shapes --out "$OUT/$1" --images 4000 --held-out 300 \
    --steps "${STEPS:-2000}" --loaders 4 --shapes "$2" "${@:3}" > "$OUT/log/$1.${2:-data}.log" 2>&1
}
share_cache() { # timing cache of r18 for another version
  local to="$OUT/$1/registry/$2/$(version "$1" "$2")/plans"
  mkdir -p "$to" && cp -n "$OUT/shapes/registry/r18/$(version shapes r18)/plans/"*.cache "$to/"
}

train() { # three networks beside each other: one does not keep the GPU busy
  shapes shapes "" --no-int8
  local jobs=()
  for shape in r18 r18_s2 r18_half_s2; do shapes shapes "$shape" --no-int8 & jobs+=($!); done
  for job in "${jobs[@]}"; do wait "$job"; done
  cat "$OUT/shapes/shapes.jsonl" | figure
}
archive() { "$TENSORRT" -m benchmarks.gpu.archive --out "$OUT/archive"; }
build() {
  for name in r18 r18.s2 r18.half.s2; do
    [ "$name" = r18 ] || share_cache shapes "$name"
    "$TENSORRT" -m benchmarks.gpu.engines --store "$OUT/shapes" --engines "$(engine shapes "$name")" | figure
  done
}
score_stage() {
  score shapes "$(engine shapes r18)" fp16 "$OUT/archive/packed" --decode cpu
  rm -rf "$OUT/rows" && mv "$OUT/shapes/predictions" "$OUT/rows"
}
decode() {
  "$TENSORRT" -m benchmarks.gpu.decode --images "$OUT/archive/loose" --seconds 1 | figure
  for name in r18 r18.half.s2; do
    score shapes "$(engine shapes "$name")" fp16 "$OUT/archive/packed" --decode gpu
    [ "$name" != r18 ] || "$TENSORRT" -m benchmarks.gpu.rows "$OUT/rows" "$OUT/shapes/predictions" --limit 4096 | figure
  done
}
torch() {
  for flag in "" --compile; do
    "$TORCH" -m benchmarks.gpu.torch_baseline --images "$OUT/archive/packed" --out "$OUT/baseline" \
      --weights "$OUT/shapes/training/r18/checkpoint.pt" --limit 16384 $flag | figure
  done
}
parity() {
  "$TENSORRT" -m benchmarks.gpu.parity --store "$OUT/shapes" --engine "$(engine shapes r18)" \
    --images ${REAL:+"$REAL"} "$OUT/archive/loose" --limit 2000 --reference "$OUT/reference" | figure
}
int8() { # the same weights once more, quantised as well
  mkdir -p "$OUT/int8/training" && cp -r "$OUT/shapes/training/r18" "$OUT/int8/training/"
  for n in 1 2 3; do ln -sfn "$OUT/shapes/synthetic-$n" "$OUT/int8/synthetic-$n"; done
  shapes int8 r18
  share_cache int8 r18
  score int8 "$(engine int8 r18)" int8 "$OUT/archive/packed" --decode cpu
}
kill_stage() { # an actor that dies costs its shards a second try and no image its row
  rm -rf "$OUT/killed"
  "$TENSORRT" -m steel_batch.cli score --images "$OUT/archive/packed" --date 2026-11-21 \
    --key-pattern "line={line}/date={date}/*.parquet" --store "$OUT/killed" \
    --engine "$OUT/shapes/registry/r18/$(version shapes r18)" --runtime tensorrt --precision fp16 \
    --output json > "$OUT/log/killed.json" 2> "$OUT/log/killed.log" &
  local run=$!
  until grep -q scoring "$OUT/log/killed.log"; do kill -0 $run; sleep 1; done
  sleep 5; pkill -9 -f 'ray::MapWorker.MapBatches.ScoreStage'
  wait $run; figure < "$OUT/log/killed.json"
}
soak() {
  for line in $(seq 2 "${SOAK_LINES:-22}"); do
    [ -d "$OUT/soak/line=$line" ] || { mkdir -p "$OUT/soak"; cp -rl "$OUT/archive/packed/line=1" "$OUT/soak/line=$line"; }
  done
  score shapes "$(engine shapes r18)" fp16 "$OUT/soak" --decode cpu --shards 8
}

for stage in "$@"; do
  echo "== $stage at $(date +%T)" >&2
  case $stage in
    score) score_stage ;; kill) kill_stage ;;
    train | archive | build | decode | torch | parity | int8 | soak) "$stage" ;;
    *) echo "there is no stage $stage" >&2; exit 2 ;;
  esac
done
