#!/bin/bash
# A Slurm of one node on this machine (Debian or Ubuntu, as root), and Table II on synthetic centers
# through it: bash docs/slurm_one_node.sh FOLDER. For trying; a real cluster has its own Slurm.
# See docs/slurm.md.
set -eu
OUT=$(realpath -m "${1:?give a folder to write to}")
PYTHON=${PYTHON:-.venv/bin/python}
HOST=$(hostname -s)

if ! command -v slurmctld > /dev/null; then
    apt-get install --yes munge slurmctld slurmd slurm-client
fi
grep -qw "$HOST" /etc/hosts || echo "127.0.0.1 $HOST" >> /etc/hosts
mkdir -p /etc/slurm /var/spool/slurmctld /var/spool/slurmd /var/log/slurm /run/munge
if [ ! -f /etc/slurm/slurm.conf ]; then
    cat > /etc/slurm/slurm.conf << CONF
ClusterName=one
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(free -m | awk '/^Mem/ {print int($2 * 0.9)}')
PartitionName=main Nodes=$HOST Default=YES MaxTime=INFINITE State=UP
CONF
fi
[ -f /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none
chown -R munge: /etc/munge /var/lib/munge /var/log/munge /run/munge
chmod 400 /etc/munge/munge.key
pgrep -x munged > /dev/null || runuser -u munge -- /usr/sbin/munged
pgrep -x slurmctld > /dev/null || slurmctld
pgrep -x slurmd > /dev/null || slurmd
for _ in $(seq 30); do
    sinfo --noheader --states idle,mix,alloc | grep -q . && break
    sleep 1
done
sinfo

# Without accounting the executor's usual status command (sacct) would wait for ever.
mkdir -p "$OUT/profile"
cat > "$OUT/profile/config.yaml" << PROFILE
slurm-no-account: true
slurm-status-command: squeue
slurm-init-seconds-before-status-checks: 5
default-resources:
  slurm_partition: main
  runtime: 60
  mem_mb: 2000
PROFILE

"$PYTHON" data/phantom/make.py "$OUT/centers" --cases 4
"$PYTHON" reproduce/run.py --what table2 --preset quick --devices cpu --executor slurm --jobs 4 \
    --profile "$OUT/profile" --centers "$OUT/centers/centers.toml" --out "$OUT/table2" \
    --checkpoints "$OUT/table2/checkpoints" --cache "$OUT/table2/cache"
