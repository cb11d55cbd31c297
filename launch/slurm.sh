#!/usr/bin/env bash
# Trains under Slurm: one process for each GPU of so many nodes, one job.
#
#   launch/slurm.sh --nodes 4 --gpus 8 --workdir DIR [options] -- --config=...
#
#   --nodes, --gpus   nodes, and GPUs of each
#   --workdir DIR     the run's folder, one that all nodes see
#   --job NAME        default ccl_jax
#   --partition, --account, --time: as in sbatch, if given
#   --cpus N          processor cores for each GPU, default 8
#   --grace SECONDS   SIGTERM so long before the time limit, default 300
#   --flags TEXT      XLA_FLAGS, see docs/launch.md
#   --failures N      see launch/host.sh
#   --dry-run         print what would be run
#
# Processes find one another by Slurm's variables. Run it from this repository.
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

nodes='' gpus='' workdir='' folder='' job=ccl_jax partition='' account='' time='' cpus=8
grace=300 flags='' failures=3
options "nodes gpus workdir" "job partition account time cpus grace flags failures" "$@"
numbers nodes gpus cpus grace failures
((${#COMMAND[@]})) || die "no flags of the training: give them after --"
command=$(quoted srun --kill-on-bad-exit=0 launch/host.sh --workdir "$workdir" \
  --failures "$failures" -- \
  python -m ccl_jax.train --distributed --workdir="$workdir" "${COMMAND[@]}")
[[ -z $flags ]] || command="XLA_FLAGS=$(quoted "$flags") $command"
eval "folder=$(on_host "$workdir")"
run mkdir -p "$folder/logs"
run sbatch --job-name="$job" --nodes="$nodes" --ntasks-per-node="$gpus" \
  --gpus-per-node="$gpus" --cpus-per-task="$cpus" ${partition:+--partition="$partition"} \
  ${account:+--account="$account"} ${time:+--time="$time"} --requeue --open-mode=append \
  --signal="TERM@$grace" --output="$folder/logs/slurm-%j.log" --wrap="$command"
