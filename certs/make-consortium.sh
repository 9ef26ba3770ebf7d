#!/usr/bin/env bash
# Makes a whole TEST consortium under one folder: authority, coordinator and hospitals, with all their private keys.
#
# Real consortia follow README.md instead: there every private key is made on its owner's machine and never leaves it.
# This script is the same commands in the same order, played by one person.
#
#   SECURE_FEDHELP     how to call the command (default: secure-fedhelp)
#   COORDINATOR_HOSTS  host names and addresses of the coordinator (default: "localhost 127.0.0.1")
#   DAYS               days until the members' certificates end (default: 30)
set -euo pipefail
umask 077 # nothing made here is readable by anybody else

if (($# < 3)); then
    echo "Usage: $0 FOLDER CONSORTIUM HOSPITAL [HOSPITAL ...]" >&2
    echo "Example: $0 runs/test-consortium north alpha beta gamma" >&2
    exit 2
fi

root=$1 consortium=$2
shift 2
fedhelp=${SECURE_FEDHELP:-secure-fedhelp}
days=${DAYS:-30}
read -ra hosts <<<"${COORDINATOR_HOSTS:-localhost 127.0.0.1}"
authority=$root/authority

# Has a member's request signed and puts the consortium's three files beside it: hand_over FOLDER ROLE NAME [--dns ...]
hand_over() {
    local folder=$1 role=$2 name=$3 keys
    shift 3
    keys=$(dirname "$(find "$folder" -name tls.csr)")
    "$fedhelp" consortium sign "$keys/tls.csr" --authority "$authority" --role "$role" --name "$name" \
        --days "$days" --out "$keys/tls.crt" "$@"
    cp "$authority/ca.crt" "$authority/revoked.crl" "$keys/"
}

"$fedhelp" consortium init "$authority" --name "$consortium"

"$fedhelp" coordinator init --folder "$root/coordinator" --consortium "$consortium" --name coordinator
dns=()
for host in "${hosts[@]}"; do dns+=(--dns "$host"); done
hand_over "$root/coordinator" coordinator coordinator "${dns[@]}"

for name in "$@"; do
    "$fedhelp" hospital init --folder "$root/hospitals/$name" --consortium "$consortium" --name "$name"
    hand_over "$root/hospitals/$name" hospital "$name"
done

"$fedhelp" consortium list --authority "$authority"
echo "Made a test consortium in $root. It holds every private key: use it for tests only, and delete it afterwards."
