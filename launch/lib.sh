# Shared by the scripts of this folder: errors in one line, dry runs, quoting.
# shellcheck shell=bash
set -euo pipefail

DRY_RUN=

die() {
  echo "error: $*" >&2
  exit 2
}

# Words as one line that a shell reads back as the same words.
quoted() {
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf '%s\n' "${line:1}"
}

# Runs a command; in a dry run only prints it.
run() {
  if [[ $DRY_RUN ]]; then
    quoted "$@"
  else
    "$@"
  fi
}

# Waits until child $1 has ended; its exit code. A trapped signal ends bash's own wait
# with a code of the signal, whether or not the child has ended since: so a trap sets
# INTERRUPTED, and a further wait gives the child's code.
await() {
  local code
  while true; do
    INTERRUPTED='' code=0
    wait "$1" || code=$?
    [[ -n $INTERRUPTED ]] || return "$code"
  done
}

# The folder in which a host keeps the logs and compiled programs of the run in $1, as a
# shell of that host reads it: $1 or, of a run in a bucket, one in the home folder.
on_host() {
  if [[ $1 =~ ^[a-z0-9]+://(.+)$ ]]; then
    local name=${BASH_REMATCH[1]%/}
    # shellcheck disable=SC2016  # of that host
    printf '$HOME/.cache/ccl_jax/runs/%s\n' "$(quoted "${name//\//_}")"
  else
    quoted "$1"
  fi
}

# options "required ..." "optional ..." "$@": reads --name VALUE or --name=VALUE into the
# variable NAME, and what follows "--" into COMMAND.
# shellcheck disable=SC2034  # COMMAND is read by the scripts
options() {
  local required=$1 known=" $1 $2 " name value
  shift 2
  COMMAND=()
  while (($#)); do
    case $1 in
      --)
        shift
        COMMAND=("$@")
        break
        ;;
      --help)
        usage
        exit 0
        ;;
      --dry-run)
        DRY_RUN=1
        shift
        continue
        ;;
      --*) name=${1#--} ;;
      *) die "unexpected argument '$1'; see --help" ;;
    esac
    if [[ $name == *=* ]]; then
      value=${name#*=} name=${name%%=*}
      shift
    else
      (($# > 1)) || die "--$name has no value; see --help"
      value=$2
      shift 2
    fi
    name=${name//-/_}
    [[ $known == *" $name "* ]] || die "unknown option --$name; see --help"
    declare -g "$name=$value"
  done
  for name in $required; do
    [[ -n ${!name} ]] || die "--$name is missing; see --help"
  done
}

# numbers NAME...: those options hold whole numbers.
numbers() {
  local name
  for name in "$@"; do
    [[ ${!name} =~ ^[0-9]+$ ]] || die "--$name: got '${!name}'; expected a whole number"
  done
}

# The comment at the top of the script that was started.
usage() {
  sed -n '2,/^[^#]/{/^# shellcheck/d;s/^# \{0,1\}//p}' "$0"
}
