#!/usr/bin/env bash
# Runs one command on this host until it ends well: what every launcher here starts.
#
#   launch/host.sh --workdir DIR [options] -- python -m ccl_jax.train --workdir=DIR ...
#
#   --workdir DIR     where the run lives; logs go to DIR/logs or, of a run in a bucket,
#                     to ~/.cache/ccl_jax/runs/BUCKET_FOLDER/logs
#   --name NAME       of the log, by default the host's and Slurm's task number
#   --cache DIR       compiled programs, by default xla_cache beside the logs
#   --free_gb N       least free space there, default 20
#   --devices N       accelerators this process must see; 0: any number
#   --failures N      give up after so many quick failures in a row, default 3
#   --quick SECONDS   a failure is quick if it comes sooner, default 300
#   --pause SECONDS   before a restart, default 10
#   --dry-run         print what would be run
#
# A failure is followed by a restart, which goes on from the newest checkpoint. Exit 0:
# the run is done; 2: the command is wrong, a restart would not help; 75: it was stopped
# (SIGTERM) and saved, as process 0 tells: run it again to go on; else the last exit code.
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

workdir='' name='' cache='' folder='' free_gb=20 devices=0 failures=3 quick=300 pause=10
options "workdir" "name cache free_gb devices failures quick pause" "$@"
numbers free_gb devices failures quick pause
((${#COMMAND[@]})) || die "no command: give it after --"
((failures)) || die "--failures: got 0; expected at least 1"
[[ -n $name ]] || name=$(hostname)${SLURM_PROCID:+.$SLURM_PROCID}
eval "folder=$(on_host "$workdir")"
log=$folder/logs/$name.log
export JAX_COMPILATION_CACHE_DIR=${cache:-$folder/xla_cache}

check() {
  mkdir -p "$folder/logs" 2>/dev/null || die "cannot make $folder/logs"
  [[ -w $folder/logs ]] || die "cannot write to $folder/logs"
  local free
  free=$(($(df -Pk "$folder" | awk 'NR == 2 {print $4}') / 1024 / 1024))
  ((free >= free_gb)) || die "$folder has $free GB free, expected $free_gb (--free_gb)"
  command -v "${COMMAND[0]}" >/dev/null || die "no program ${COMMAND[0]} on this host"
  if ((devices)); then
    local seen
    # The last line only: libraries greet on standard output.
    seen=$(timeout 300 "${COMMAND[0]}" -c \
      'import jax; print(jax.local_device_count())' 2>>"$log" | tail -n 1) || seen=none
    [[ $seen == "$devices" ]] || die "this host sees $seen devices, expected $devices"
  fi
}

if [[ $DRY_RUN ]]; then
  echo "JAX_COMPILATION_CACHE_DIR=$(quoted "$JAX_COMPILATION_CACHE_DIR")" \
    "$(quoted "${COMMAND[@]}") >>$(quoted "$log") 2>&1"
  exit
fi

check
echo $$ >"$folder/logs/$name.pid"
child='' stopping=''
stop() {
  stopping=1 INTERRUPTED=1
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true
}
trap stop TERM INT

quick_failures=0
while true; do
  begun=$SECONDS
  echo "== $(date -u +%FT%TZ) $(quoted "${COMMAND[@]}")" >>"$log"
  lines=$(wc -l <"$log")
  "${COMMAND[@]}" >>"$log" 2>&1 &
  child=$!
  [[ -z $stopping ]] || stop
  code=0
  await "$child" || code=$?
  child=
  took=$((SECONDS - begun))
  echo "== $(date -u +%FT%TZ) exit $code after $took s" >>"$log"
  if ((code == 0)); then
    if tail -n "+$lines" "$log" | grep -q '^{"stopped": true'; then
      exit 75
    fi
    exit 0
  fi
  if ((code == 2)); then
    die "$(grep '^error: ' "$log" | tail -n 1 | cut -c 8-) (see $log)"
  fi
  [[ -z $stopping ]] || exit "$code"
  if ((took < quick)); then
    quick_failures=$((quick_failures + 1))
  else
    quick_failures=0
  fi
  if ((quick_failures >= failures)); then
    echo "error: $failures failures in a row, each within $quick s; see $log" >&2
    exit "$code"
  fi
  sleep "$pause" &
  wait $! || true
  [[ -z $stopping ]] || exit 75
done
