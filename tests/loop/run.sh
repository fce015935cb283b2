#!/usr/bin/env bash
# Runs the release programs as a user would: a whole run killed at many instants, the quickstart, imported trajectories.
# Usage: run.sh FOLDER_OF_PROGRAMS [KILLS] [--only TEST...]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
programs=${1:?folder of the release programs}
kills=${2:-20}
exec python3 -B "$here/loop.py" --programs "$programs" --kills "$kills" "${@:3}"
