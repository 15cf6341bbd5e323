#!/bin/sh
# The main job from end to end with no engine: plan, apply, plan again, status, destroy, history.
set -eu
flowplan=$1
spec=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$spec" "$work/flowplan.yaml"
cd "$work"
run() { echo; echo "\$ flowplan $*"; "$flowplan" "$@"; }
run plan
run apply --yes
run plan
run status
run destroy --yes
run events
