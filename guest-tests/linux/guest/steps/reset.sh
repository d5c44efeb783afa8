# The controller is reset, scanned and unbound under load: no error reaches whoever reads and writes.
device=/dev/$(ns 2)
load() { # FILE OF ITS RESULT
    fio --name=l --filename=$device --ioengine=io_uring --direct=1 --iodepth=8 --rw=randwrite --bs=4k \
        --size=1m --io_size=64m --time_based --runtime=8 --verify=crc32c --verify_fatal=1 \
        --verify_backlog=32 --minimal >/run/load 2>&1
    echo $? >"$1"
}
resets() {
    for n in 1 2 3; do
        usleep 700000
        nvme reset /dev/nvme0 || return
        usleep 300000
        echo 1 >/sys/class/nvme/nvme0/rescan_controller || return
    done
}
rm -f /run/status
load /run/status &
try reset.three_times_under_load resets
wait
check reset.load_saw_no_error 0 "$(cat /run/status)"
check reset.controller_is_live live "$(cat /sys/class/nvme/nvme0/state)"
check reset.queues_are_back "$QUEUES" "$(cat /sys/class/nvme/nvme0/queue_count)"

# Function level reset by the PCI core, then the driver away and back.
address=$(basename "$(readlink /sys/class/nvme/nvme0/device)")
before=$(dd if=/dev/$(ns 2) bs=4k count=16 iflag=direct 2>/dev/null | md5sum)
rebind() {
    echo "$address" >/sys/bus/pci/drivers/nvme/unbind || return
    [ ! -e /dev/nvme0n2 ] || return
    echo "$address" >/sys/bus/pci/drivers/nvme/bind || return
    await test -e /dev/nvme0n2
}
try reset.unbind_and_bind rebind
check reset.data_is_there "$before" "$(dd if=/dev/$(ns 2) bs=4k count=16 iflag=direct 2>/dev/null | md5sum)"
