#!/usr/bin/env bash
# One machine of the throwaway cluster: process 1 of its own namespaces. node.sh FOLDER NAME ADDRESS
set -eu
folder=$1 name=$2 address=$3 PATH=$PATH:/usr/sbin:/sbin
trap 'exit 0' TERM
mount -t proc proc /proc
mount --bind "$folder/hosts" /etc/hosts
mkdir -p "$folder/disks/$name"
mount --bind "$folder/disks/$name" "$folder/local" # what every node has at the same path, and shares with nobody
hostname "$name"
ip link set lo up
if [ "$name" = login ]; then
    ip link add switch type bridge
    ip addr add "$address/24" dev switch
    ip link set switch up
    slurmctld -D -f "$folder/slurm.conf" </dev/null &
else
    until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done # the cable, plugged in from outside
    ip addr add "$address/24" dev eth0
    ip link set eth0 up
    slurmd -D -N "$name" -f "$folder/slurm.conf" </dev/null &
fi
touch "$folder/run/$name.ready"
read -r || true # until those who started it end, however they end
