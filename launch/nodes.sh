#!/usr/bin/env bash
# Trains on machines with GPUs that ssh reaches: one process on each, started from here.
#
#   launch/nodes.sh --hosts a,b,c --dir DIR --workdir DIR [options] -- --config=...
#
#   --hosts LIST      names with commas; the first one's process is the coordinator
#   --port N          of the coordinator, default 12355
#   --dir DIR         this repository on the machines
#   --workdir DIR     the run's folder, one that all machines see
#   --devices N       GPUs that each machine must have; 0: any number
#   --action WHAT     run (default); stop: all save and leave; logs: the last lines
#   --flags TEXT      XLA_FLAGS, see docs/launch.md
#   --failures N      see launch/host.sh
#   --dry-run         print what would be run
#
# Ends when all have ended, with the first exit code that is not 0; Ctrl-C stops them.
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

hosts='' dir='' workdir='' port=12355 devices=0 action=run flags='' failures=3
options "hosts dir workdir" "port devices action flags failures" "$@"
numbers port devices failures
IFS=, read -ra names <<<"$hosts"
((${#names[@]})) || die "--hosts: got ''; expected names with commas"

# The log and the process of host number $1.
logs() {
  echo "$(on_host "$workdir")/logs/process$1"
}

stop_all() {
  local i
  for i in "${!names[@]}"; do
    run ssh "${names[i]}" "kill -TERM \$(cat $(logs "$i").pid)" || true
  done
}

case $action in
  run) ((${#COMMAND[@]})) || die "no flags of the training: give them after --" ;;
  stop) stop_all; exit ;;
  logs)
    for i in "${!names[@]}"; do
      run ssh "${names[i]}" "tail -n 20 $(logs "$i").log"
    done
    exit
    ;;
  *) die "--action: got '$action'; expected run, stop or logs" ;;
esac

trap 'INTERRUPTED=1; stop_all' TERM INT
children=()
for i in "${!names[@]}"; do
  command=$(quoted launch/host.sh --workdir "$workdir" --name "process$i" \
    --devices "$devices" --failures "$failures" -- \
    python -m ccl_jax.train --distributed --coordinator="${names[0]}:$port" \
    --num_processes="${#names[@]}" --process_id="$i" --workdir="$workdir" "${COMMAND[@]}")
  [[ -z $flags ]] || command="XLA_FLAGS=$(quoted "$flags") $command"
  command="cd $(quoted "$dir") && $command"
  if [[ $DRY_RUN ]]; then
    run ssh "${names[i]}" "$command"
  else
    # shellcheck disable=SC2029  # made here on purpose
    ssh "${names[i]}" "$command" &
    children+=($!)
  fi
done
result=0
for child in "${children[@]}"; do
  code=0
  await "$child" || code=$?
  ((result)) || result=$code
done
exit "$result"
