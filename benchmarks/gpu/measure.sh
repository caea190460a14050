#!/usr/bin/env bash
# Everything that is measured on a GPU host, stage by stage; stops at the first thing that fails.
#
#   benchmarks/gpu/measure.sh STAGE ...
#
#   tests      those that need a GPU
#   train      the shapes of SHAPES beside each other, and a version of each
#   archive    65,536 packed strips on the local disk
#   build      a plan of each shape; engine alone
#   score      engine, in process and `score`, decoding on the CPU
#   decode     the same, decoding on the GPU
#   rows       of the last two, compared; decoding alone
#   pair       decode with two actors on the GPU
#   post       what the actor's own code lets through, without decoding and without an engine
#   torch      what one would write with Ray Data and PyTorch, eager and compiled
#   reference  ONNX Runtime's masks of 2,000 strips and those of REAL
#   parity     the plan's masks against them
#   kill       a run whose actor is killed
#   every      `score` with every GPU of the host
#   soak       about eight minutes of `score`
#
# OUT          where images, engines and figures go (/tmp/measured); figures are lines of OUT/figures.jsonl
# TORCH        the Python that trains and runs the PyTorch baseline
# TENSORRT     the Python that scores
# REAL         a folder of real strips for the parity (none)
# SHAPES       of benchmarks.gpu.shapes ("r18 r10_s4_narrow")
# SHAPE        the one of them that is measured (r18)
# PRECISION    of the plan (fp16; int8, if that was taken)
# STEPS, NUM_IMAGES   of training (2000, 4000)
# THREADS      of an actor (12)
# LINES        how often the 65,536 images are scored in a row (4)
# SOAK_LINES   the same in the soak (22, about eight minutes)
# STORE        where `score`, `decode` and `pair` find the engines (shapes); a copy lets two GPUs be measured at once
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-/tmp/measured} TORCH=${TORCH:-python3} TENSORRT=${TENSORRT:-python3} REAL=${REAL:-}
SHAPES=${SHAPES:-r18 r10_s4_narrow} SHAPE=${SHAPE:-r18} THREADS=${THREADS:-12} PRECISION=${PRECISION:-fp16}
LINES=${LINES:-4} STORE=${STORE:-shapes}
export PYTHONUNBUFFERED=1
mkdir -p "$OUT/log"

model() { echo "${1//_/.}"; }
version() { ls "$OUT/$1/registry/$(model "$2")" | grep -v aliases | head -1; }
engine() { echo "$(model "$2")-$(version "$1" "$2")"; }
folder() { echo "$OUT/$1/registry/$(model "$2")/$(version "$1" "$2")"; }
figure() { tee -a "$OUT/figures.jsonl"; }
score_benchmark() { # STORE IMAGES [FLAGS]: engine alone, in process, score
  "$TENSORRT" -m benchmarks.gpu.score --store "$OUT/$1" --engine "$(engine "$1" "$SHAPE")" \
    --precision "$PRECISION" --images "$2" --threads "$THREADS" "${@:3}" | figure
}
store() { # a store of its own with the engines
  rm -rf "${OUT:?}/$1" && mkdir -p "$OUT/$1" && cp -r "$OUT/shapes/registry" "$OUT/$1/"
}
score_run() { # STORE IMAGES [FLAGS]: the command alone
  store "$1"
  "$TENSORRT" -m steel_batch.cli score --images "$2" --date 2026-11-21 --store "$OUT/$1" \
    --key-pattern "line={line}/date={date}/*.parquet" --engine "$(engine shapes "$SHAPE")" \
    --runtime tensorrt --precision "$PRECISION" --batch-size 32 --output json "${@:3}"
}
shapes() { # STORE SHAPE [FLAGS]
  "$TORCH" -m benchmarks.gpu.shapes --out "$OUT/$1" --images "${NUM_IMAGES:-4000}" --steps "${STEPS:-2000}" \
    --loaders 4 --shapes "$2" "${@:3}" > "$OUT/log/$1.${2:-data}.log" 2>&1
}

lines() { # NUMBER: a folder with the packed strips so many times
  local folder="$OUT/lines-$1" line
  for line in $(seq 1 "$1"); do
    [ -d "$folder/line=$line" ] || { mkdir -p "$folder"; cp -rl "$OUT/archive/packed/line=1" "$folder/line=$line"; }
  done
  echo "$folder"
}

tests() { # they need nothing of the suite, which may not be installed beside TensorRT
  "$TENSORRT" -m pytest -c /dev/null --rootdir . --noconftest -p no:cacheprovider -m gpu -rs -v \
    tests/engine/test_tensorrt.py tests/engine/test_gpu_decode.py tests/engine/test_check.py \
    tests/cluster/test_gpu_checks.py >&2
}
train() { # beside each other: one does not keep the GPU busy
  shapes shapes ""
  local jobs=()
  for shape in $SHAPES; do shapes shapes "$shape" & jobs+=($!); done
  for job in "${jobs[@]}"; do wait "$job"; done
  figure < "$OUT/shapes/shapes.jsonl"
}
archive() { "$TENSORRT" -m benchmarks.gpu.archive --out "$OUT/archive"; }
build() { # each begins with the timing cache of the one before
  local before=
  for shape in $SHAPES; do
    local to; to="$(folder shapes "$shape")/plans"
    mkdir -p "$to"
    [ -z "$before" ] || find "$before" -name "*.cache" -exec cp -n {} "$to/" \;
    "$TENSORRT" -m benchmarks.gpu.engines --store "$OUT/shapes" --engines "$(engine shapes "$shape")" \
      --precisions "$PRECISION" | figure
    before=$to
  done
}
score() {
  score_benchmark "$STORE" "$(lines "$LINES")" --decode cpu
  rm -rf "$OUT/rows" && mv "$OUT/$STORE/predictions" "$OUT/rows"
}
decode() { score_benchmark "$STORE" "$(lines "$LINES")" --decode gpu; }
rows() { # of CPU and GPU decode, and decoding alone
  "$TENSORRT" -m benchmarks.gpu.rows "$OUT/rows" "$OUT/$STORE/predictions" --limit 4096 | figure
  "$TENSORRT" -m benchmarks.gpu.decode --images "$OUT/archive/loose" --seconds 1 \
    --batch-sizes 32,64 --threads 1,6 | figure
}
pair() {
  score_benchmark "$STORE" "$(lines "$LINES")" --decode gpu \
    --threads $((THREADS / 2)) --score-flags "--actors-per-gpu 2"
}
post() { # half of the strips have defects
  "$TENSORRT" -m benchmarks.actor --engine-rate 100000 --decode-ms 0.01 --threads "$THREADS" \
    --slots 6 --shards 96 | figure
}
torch() {
  for flag in "" --compile; do
    "$TORCH" -m benchmarks.gpu.torch_baseline --images "$OUT/archive/packed" --out "$OUT/baseline" \
      --weights "$OUT/shapes/training/r18-0/checkpoint.pt" --limit 16384 $flag | figure
  done
}
parity() { # [FLAGS]
  "$TENSORRT" -m benchmarks.gpu.parity --store "$OUT/shapes" --engine "$(engine shapes "$SHAPE")" \
    --images ${REAL:+"$REAL"} "$OUT/archive/loose" --limit 2000 --reference "$OUT/reference" \
    --precisions "$PRECISION" "$@"
}
kill_stage() { # an actor that dies costs its shards a second try and no image its row
  score_run killed "$OUT/archive/packed" --decode gpu > "$OUT/log/killed.json" 2> "$OUT/log/killed.log" &
  local run=$!
  until grep -q scoring "$OUT/log/killed.log"; do kill -0 $run; sleep 1; done
  sleep 5
  local ours="CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-}" actor
  for actor in $(pgrep -f 'ray::MapWorker.MapBatches.ScoreStage'); do # another GPU's are left alone
    if [ "${ours#*=}" = "" ] || tr '\0' '\n' < "/proc/$actor/environ" | grep -qx "$ours"; then kill -9 "$actor"; fi
  done
  wait $run; figure < "$OUT/log/killed.json"
}
every() {
  score_run every "$(lines "$LINES")" --cpus-per-actor "$THREADS" --decode gpu | figure
}
soak() {
  store soaked
  score_benchmark soaked "$(lines "${SOAK_LINES:-22}")" --decode gpu
}

for stage in "$@"; do
  echo "== $stage at $(date +%T)" >&2
  case $stage in
    kill) kill_stage ;;
    reference) parity --only-reference ;;
    parity) parity | figure ;;
    tests | train | archive | build | score | decode | rows | pair | post | torch | every | soak) "$stage" ;;
    *) echo "there is no stage $stage" >&2; exit 2 ;;
  esac
done
