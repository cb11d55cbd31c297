#!/usr/bin/env bash
# Trains on a TPU VM pod: the same command on all its hosts, over gcloud's ssh.
#
#   launch/tpu_vm.sh --tpu NAME --zone ZONE --dir DIR --workdir DIR -- --config=...
#
#   --tpu, --zone     of the pod, made before; [--project P] if not gcloud's default
#   --dir DIR         this repository on the hosts
#   --workdir DIR     the run's folder, one that all hosts see
#   --action WHAT     run (default); stop: all save and leave; logs: the last lines
#   --flags TEXT      LIBTPU_INIT_ARGS, see docs/launch.md
#   --failures N      see launch/host.sh
#   --dry-run         print what would be run
#
# What follows -- are flags of ccl_jax.train.
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tpu='' zone='' dir='' workdir='' project='' action=run flags='' failures=3
options "tpu zone dir workdir" "project action flags failures" "$@"
numbers failures

on_all() {
  run gcloud compute tpus tpu-vm ssh "$tpu" --zone="$zone" \
    ${project:+--project="$project"} --worker=all --command="$1"
}

# Process names differ by host: each finds its own.
logs="$(on_host "$workdir")/logs/\$(hostname)"
case $action in
  run)
    ((${#COMMAND[@]})) || die "no flags of the training: give them after --"
    command=$(quoted launch/host.sh --workdir "$workdir" --failures "$failures" -- \
      python -m ccl_jax.train --distributed --workdir="$workdir" "${COMMAND[@]}")
    [[ -z $flags ]] || command="LIBTPU_INIT_ARGS=$(quoted "$flags") $command"
    on_all "cd $(quoted "$dir") && $command"
    ;;
  stop) on_all "kill -TERM \$(cat $logs.pid)" ;;
  logs) on_all "tail -n 20 $logs.log" ;;
  *) die "--action: got '$action'; expected run, stop or logs" ;;
esac
