#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The first process of the machine: it mounts what tests of eBPF need, runs each
# line of /tests, and switches the machine off.

/bin/busybox mkdir -p /proc /sys /dev /tmp /root /run /var/lib
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin:/sbin HOME=/root TMPDIR=/tmp

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t tracefs tracefs /sys/kernel/tracing
mount -t securityfs securityfs /sys/kernel/security
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
ulimit -l unlimited
for module in /modules/*.ko; do
  [ -e "$module" ] && { insmod "$module" || echo "insmod $module failed"; }
done

# What the tests print goes as it is.
stty -F /dev/ttyS1 raw -echo
exec 3>/dev/ttyS1
mark=$(cat /mark)
. /environment
n=0
while read -r folder; do
  echo "$mark begin $n" >&3
  cd "$folder"
  # A process that a test leaves behind keeps its output open, so nobody waits
  # for the end of it.
  sh /run$n.sh </dev/null >&3 2>&1
  echo "$mark end $n $?" >&3
  n=$((n + 1))
done </tests
echo "$mark done" >&3
sync
poweroff -f
