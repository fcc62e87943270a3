#!/bin/sh
# The speed benchmarks, one after the other, and then one page of all ratios: benchmarks/results/README.md. Of deploy three
# models, of train_step those that a peer has; `deploy.py` and `train_step.py` alone measure all.
#
#   sh benchmarks/all.sh                    # into benchmarks/results; nothing else should run on the machine
#   PYTHON=.venv/bin/python OUT=/some/folder sh benchmarks/all.sh
#
# The settings are such that all of it takes less than 30 minutes on two cores. A benchmark that fails is named at the
# end, and the others run all the same. Needs `pip install -e .[test]`.
set -u
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python}
OUT=${OUT:-benchmarks/results}
THREADS=${THREADS:-2}
failed=""
mkdir -p "$OUT"
begin=$(date +%s)

measure() {
    name=$1
    shift
    start=$(date +%s)
    if "$PYTHON" "benchmarks/$name.py" "$@" >"$OUT/$name.log" 2>&1; then
        rm -f "$OUT/$name.log"
    else
        failed="$failed $name"
    fi
    echo "$name $(($(date +%s) - start)) s"
}

measure startup --rounds 3 --out "$OUT"
measure decode --repeats 9 --out "$OUT"
measure deform_conv --threads "$THREADS" --repeats 5 --budget 10 --out "$OUT/deform_conv"
measure dyhead_plain --threads "$THREADS" --rounds 3 --out "$OUT"
measure deform_attention --threads "$THREADS" --rounds 3 --out "$OUT"
measure roi_align --threads "$THREADS" --repeats 5 --out "$OUT"
measure lite --threads 1 "$THREADS" --rounds 20 --out "$OUT"
measure inference --threads "$THREADS" --repeats 3 --out "$OUT"
measure train_step --only fcos retinanet faster_rcnn --threads "$THREADS" --rounds 3 --memory --out "$OUT"
measure whole_runs --threads "$THREADS" --pictures 24 --rounds 2 --out "$OUT"
measure allocator --threads "$THREADS" --rounds 5 --out "$OUT"
measure deploy --only pafnet_lite fcos_r50_fpn faster_rcnn_r50_fpn --threads "$THREADS" --rounds 3 --out "$OUT"
"$PYTHON" benchmarks/page.py --folder "$OUT" || failed="$failed page"

echo "all of it $(($(date +%s) - begin)) s"
if [ -n "$failed" ]; then
    echo "failed:$failed (see the .log files in $OUT)"
    exit 1
fi
