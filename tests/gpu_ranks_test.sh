#!/usr/bin/env bash
# Ranks on this machine's GPUs, started as torchrun starts them: what they compute, and what becomes of the others when
# one dies, stops or does something else. With one GPU: two ranks on it are refused in words.
# Usage: gpu_ranks_test.sh BUILD_FOLDER [REPETITIONS], the latter of a rank that dies (default 4).
set -euo pipefail
build=$1 repetitions=${2:-4}
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0} # multicast needs rights that a shared machine may not give
export ANYFP8_TEST_DEVICE=cuda ANYFP8_COMM_TIMEOUT=10 # of a rank that is stopped; starting takes its time too

die() {
  echo "gpu_ranks_test: $*" >&2
  exit 1
}
program() { find "$build" -name "$1" -type f -perm -u+x -print -quit; }

# ranks LOG PORT LOCAL_RANKS COMMAND...: a rank for each of LOCAL_RANKS; its output and exit code go to LOG.RANK.
ranks() {
  local log=$1 port=$2 places=$3 rank=0 place count
  shift 3
  count=$(wc -w <<<"$places")
  for place in $places; do
    (
      export RANK=$rank WORLD_SIZE=$count LOCAL_RANK=$place MASTER_ADDR=127.0.0.1 MASTER_PORT=$port
      code=0
      timeout -s KILL 30 "$@" >"$log.$rank" 2>&1 || code=$?
      echo "exit $code" >>"$log.$rank"
    ) &
    rank=$((rank + 1))
  done
  wait
}

# lost HOW NUMBER: rank 1 is lost; rank 0 ends with 1 within 30 s, and one line that names rank 1.
lost() {
  local log=$folder/$1.$2
  ranks "$log" $((base + 2 * $2)) "0 1" "$(program parallel_ranks)" "$1"
  [[ $(tail -n 1 "$log.0") == "exit 1" && $(grep -c 'rank 1' "$log.0") == 1 ]] ||
    echo "$1: rank 0 said: $(tr '\n' '|' <"$log.0")" >>"$folder/faults"
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
base=$((20000 + RANDOM % 20000))
gpus=$("$(program anyfp8)" devices --json | grep -o '"cuda:[0-9]*"' | sort -u | wc -l) || gpus=0
if [[ $gpus == 0 ]]; then
  echo "gpu_ranks_test: SKIPPED, this machine has no GPU that CUDA can use"
  exit 0
fi

ranks "$folder/shared" $base "0 0" "$(program parallel_ranks)" collectives
for rank in 0 1; do
  grep -q 'both have the GPU' "$folder/shared.$rank" && [[ $(tail -n 1 "$folder/shared.$rank") == "exit 1" ]] ||
    die "two ranks on one GPU: rank $rank said $(cat "$folder/shared.$rank")"
done
echo "gpu_ranks_test: two ranks on one GPU are refused: $(head -n 1 "$folder/shared.0")"
if [[ $gpus == 1 ]]; then
  echo "gpu_ranks_test: SKIPPED what needs two GPUs, this machine has one"
  exit 0
fi

step=1
for command in "parallel_ranks collectives" "parallel_ranks layers" graph_ranks; do
  read -r name mode <<<"$command"
  ranks "$folder/ran" $((base + 2 * step)) "0 1" "$(program "$name")" $mode
  for rank in 0 1; do
    [[ $(tail -n 1 "$folder/ran.$rank") == "exit 0" ]] ||
      echo "$command: rank $rank said: $(tr '\n' '|' <"$folder/ran.$rank")" >>"$folder/faults"
  done
  echo "gpu_ranks_test: $command ran on two GPUs"
  step=$((step + 1))
done

# Several at a time: most of what they take is starting and waiting.
at_once=16 number=10
for how in stop die throw count; do
  times=$repetitions
  if [[ $how != die && $times -gt 4 ]]; then times=4; fi
  for ((i = 0; i < times; ++i)); do
    lost "$how" $number &
    number=$((number + 1))
    while [[ $(jobs -rp | wc -l) -ge $at_once ]]; do wait -n || true; done
  done
done
wait
[[ ! -e $folder/faults ]] || die "$(head -n 20 "$folder/faults")"
echo "gpu_ranks_test: rank 1 was stopped, died ($repetitions times), threw and did something else: rank 0 ended with 1 and named it:"
grep -h 'rank 1' "$folder"/{stop,die,throw,count}.*.0 | sort | uniq -c
