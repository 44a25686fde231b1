#!/usr/bin/env bash
# Ranks on this machine's GPUs, started as torchrun starts them: what they compute, and what becomes of the others when
# one dies, stops or does something else. With one GPU: two ranks on it are refused in words.
# Usage: gpu_ranks_test.sh BUILD_FOLDER [REPETITIONS], the latter of a rank that dies (default 4).
set -euo pipefail
build=$1 repetitions=${2:-4}
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0} # multicast needs rights that a shared machine may not give
export ANYFP8_TEST_DEVICE=cuda ANYFP8_COMM_TIMEOUT=10
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
port=$((20000 + RANDOM % 20000))

die() {
  echo "gpu_ranks_test: $*" >&2
  exit 1
}
program() { find "$build" -name "$1" -type f -perm -u+x -print -quit; }

# ranks LOG LOCAL_RANKS PROGRAM [ARGUMENTS]: a rank for each of LOCAL_RANKS; output and exit code go to LOG.RANK.
ranks() {
  local log=$1 places=$2 rank=0 place count command own=()
  command=$(program "$3")
  shift 3
  count=$(wc -w <<<"$places")
  for place in $places; do
    (
      export RANK=$rank WORLD_SIZE=$count LOCAL_RANK=$place MASTER_ADDR=127.0.0.1 MASTER_PORT=$port
      code=0 begin=$SECONDS
      timeout -s KILL 30 "$command" "$@" >"$log.$rank" 2>&1 || code=$?
      echo "exit $code after $((SECONDS - begin)) s" >>"$log.$rank"
    ) 2>/dev/null &
    own+=($!)
    rank=$((rank + 1))
  done
  wait "${own[@]}"
}

# lost PROGRAM HOW: rank 1 is lost; rank 0 ends with 1 within 30 s, and one line that names rank 1.
lost() {
  local log=$folder/lost.$port
  ranks "$log" "0 1" "$1" "$2"
  if [[ $(tail -n 1 "$log.0") == "exit 1 "* && $(grep -c 'rank 1' "$log.0") == 1 ]]; then
    echo "$(tail -n 1 "$log.0"): $(grep 'rank 1' "$log.0")" >>"$folder/ends"
  else
    echo "$1 $2: rank 0 said: $(tr '\n' '|' <"$log.0")" >>"$folder/faults"
  fi
}

gpus=$("$(program anyfp8)" devices --json | grep -o '"cuda:[0-9]*"' | sort -u | wc -l) || gpus=0
if [[ $gpus == 0 ]]; then
  echo "gpu_ranks_test: SKIPPED, this machine has no GPU that CUDA can use"
  exit 0
fi

ranks "$folder/shared" "0 0" parallel_ranks collectives
for rank in 0 1; do
  grep -q 'both have the GPU' "$folder/shared.$rank" && [[ $(tail -n 1 "$folder/shared.$rank") == "exit 1 "* ]] ||
    echo "two ranks on one GPU: rank $rank said: $(tr '\n' '|' <"$folder/shared.$rank")" >>"$folder/faults"
done
echo "gpu_ranks_test: two ranks on one GPU: $(head -n 1 "$folder/shared.0")"

if [[ $gpus == 1 ]]; then
  echo "gpu_ranks_test: SKIPPED what needs two GPUs, this machine has one"
else
  for command in "parallel_ranks collectives" "parallel_ranks layers" graph_ranks; do
    port=$((port + 2))
    # shellcheck disable=SC2086  # a program and its argument
    ranks "$folder/ran" "0 1" $command
    for rank in 0 1; do
      [[ $(tail -n 1 "$folder/ran.$rank") == "exit 0 "* ]] ||
        echo "$command: rank $rank said: $(tr '\n' '|' <"$folder/ran.$rank")" >>"$folder/faults"
    done
    echo "gpu_ranks_test: $command on two GPUs: $(tail -n 1 "$folder/ran.0")"
  done
  hows=("parallel_ranks stop" "parallel_ranks throw" "parallel_ranks count" "parallel_ranks leave")
  for ((i = 0; i < repetitions; ++i)); do hows+=("parallel_ranks die" "graph_ranks die"); done
  for how in "${hows[@]}"; do
    port=$((port + 2))
    # shellcheck disable=SC2086
    lost $how &
    while [[ $(jobs -rp | wc -l) -ge 5 ]]; do wait -n || true; done # most of what they take is starting
  done
  wait
  echo "gpu_ranks_test: what rank 0 said when rank 1 was lost, how often:"
  sort "$folder/ends" | uniq -c
fi
[[ ! -e $folder/faults ]] || die "$(head -n 20 "$folder/faults")"
