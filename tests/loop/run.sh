#!/usr/bin/env bash
# Runs the release programs as a user would: a campaign, the same one killed at many instants, the whole quickstart.
# Usage: run.sh FOLDER_OF_PROGRAMS [KILLS]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec python3 "$here/loop.py" --programs "${1:?folder of the release programs}" --kills "${2:-6}"
