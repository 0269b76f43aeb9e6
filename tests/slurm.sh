#!/bin/sh
# A Slurm of one machine, from Debian's packages (apt-get install munge slurm-wlm), on the loopback address alone, as root:
#     sh tests/slurm.sh up FOLDER      # then: export SLURM_CONF=FOLDER/slurm.conf
#     sh tests/slurm.sh down FOLDER
# Everything it writes is in FOLDER, which only root should be able to write to; it ends the processes that it started, by
# their process ids.
set -eu
action=$1 folder=$2

alive() { # file of a process id
    [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null
}

up() {
    for command in munged slurmctld slurmd; do
        command -v $command >/dev/null || { echo "no $command here: apt-get install munge slurm-wlm" >&2; exit 1; }
    done
    mkdir -p "$folder/munge" "$folder/state" "$folder/spool"
    chmod 755 "$folder"
    chmod 711 "$folder/munge"
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
    host=$(hostname -s) cores=$(nproc)
    cat >"$folder/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldParameters=enable_configless
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=5
JobRequeue=1
NodeName=$host NodeAddr=127.0.0.1 NodeHostname=$host CPUs=$cores RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
    munged --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge/seed" --force
    export SLURM_CONF="$folder/slurm.conf"
    slurmctld
    slurmd
    for _ in $(seq 60); do
        if sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then
            exit 0
        fi
        sleep 1
    done
    echo "no node is idle after a minute: see $folder/slurmctld.log and slurmd.log" >&2
    exit 1
}

down() {
    export SLURM_CONF="$folder/slurm.conf"
    scancel --me 2>/dev/null || true
    sleep 1
    for name in slurmd slurmctld munged; do
        file="$folder/$name.pid"
        if alive "$file"; then
            pid=$(cat "$file")
            kill "$pid"
            for _ in $(seq 50); do
                kill -0 "$pid" 2>/dev/null || break
                sleep 0.2
            done
            kill -9 "$pid" 2>/dev/null || true
        fi
    done
}

$action
