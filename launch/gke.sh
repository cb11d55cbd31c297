#!/usr/bin/env bash
# Trains on TPU slices of a Kubernetes cluster, through XPK.
#
#   launch/gke.sh --cluster NAME --workload NAME --tpu_type v5p-128 --image IMAGE \
#       --workdir DIR -- --config=...
#
#   --slices N        slices of that type, default 1: see config.slices
#   --zone, --project of the cluster, if not gcloud's defaults
#   --image IMAGE     with this repository at /ccl_jax and python on the path
#   --workdir DIR     the run's folder, one that all hosts see
#   --action WHAT     run (default), stop, or logs: list the workload
#   --restarts N      of the whole workload, after a preemption, default 100
#   --flags TEXT      LIBTPU_INIT_ARGS, see docs/launch.md
#   --dry-run         print what would be run
#
# What follows -- are flags of ccl_jax.train.
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cluster='' workload='' tpu_type='' image='' workdir='' slices=1 zone='' project=''
action=run restarts=100 flags=''
options "cluster workload" \
  "tpu_type image workdir slices zone project action restarts flags" "$@"
numbers slices restarts
where=(--cluster="$cluster" --workload="$workload" ${zone:+--zone="$zone"}
  ${project:+--project="$project"})

case $action in
  run)
    for name in tpu_type image workdir; do
      [[ -n ${!name} ]] || die "--$name is missing; see --help"
    done
    ((${#COMMAND[@]})) || die "no flags of the training: give them after --"
    # One attempt in a pod: the cluster restarts all of them together.
    command=$(quoted launch/host.sh --workdir "$workdir" --failures 1 --quick 1000000000 \
      -- python -m ccl_jax.train --distributed --workdir="$workdir" "${COMMAND[@]}")
    [[ -z $flags ]] || command="LIBTPU_INIT_ARGS=$(quoted "$flags") $command"
    run xpk workload create "${where[@]}" --tpu-type="$tpu_type" \
      --num-slices="$slices" --docker-image="$image" --max-restarts="$restarts" \
      --command="cd /ccl_jax && $command"
    ;;
  stop) run xpk workload delete "${where[@]}" ;;
  logs)
    run xpk workload list --cluster="$cluster" ${zone:+--zone="$zone"} \
      ${project:+--project="$project"} --filter-by-job="$workload"
    ;;
  *) die "--action: got '$action'; expected run, stop or logs" ;;
esac
