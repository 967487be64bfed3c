#!/bin/sh
# Writes docker/.env: what .env.example says, with a fresh password in every empty place. One that is there stays.
set -eu
cd "$(dirname "$0")"

if [ -e .env ]; then
    echo "docker/.env is there already and stays as it is"
    exit 0
fi

# A letter first: nats-server would read some other passwords as numbers.
fresh() { printf 'p%s' "$(head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n')"; }

umask 077
while IFS= read -r line; do
    case $line in
    '#'*) printf '%s\n' "$line" ;;
    *=) printf '%s%s\n' "$line" "$(fresh)" ;;
    *) printf '%s\n' "$line" ;;
    esac
done <.env.example >.env.new
mv .env.new .env
echo "fresh passwords are in docker/.env"
