# What is written is what is read: random and sequential, by io_uring, checked by CRC-32C. Bounded by
# operations: where exits are emulated a read takes milliseconds.
common='--ioengine=io_uring --verify=crc32c --verify_fatal=1 --minimal'
for nsid in $NSIDS; do
    device=$(ns "$nsid")
    block=$(cat "/sys/block/$device/queue/logical_block_size")
    [ "$block" -lt 4096 ] && block=4096
    # One after the other, in one process: starting it takes longer than what it does.
    try "fio.ns$nsid.random_and_sequential" fio $common --filename="/dev/$device" --direct=1 --iodepth=8 \
        --name=random --rw=randwrite --bs=$block --size=$((block * 128)) --number_ios=100 \
        --name=sequential --stonewall --rw=write --bs=$((block * 4)) --offset=$((block * 128)) --size=$((block * 128))
done
# Sizes that are no multiple of anything but the block, over several PRP pages.
try fio.mixed_sizes fio --name=m $common --filename="/dev/$(ns 1)" --direct=1 --iodepth=8 \
    --rw=randwrite --bsrange=512-128k --size=4m --io_size=2m
# Through the page cache.
try fio.buffered fio --name=p $common --filename="/dev/$(ns 2)" --rw=randwrite --bs=4k --size=512k --fsync=64
check fio.interrupts_came yes "$(awk '/nvme0q1/ { print ($2 > 100) ? "yes" : "no: " $2 }' /proc/interrupts)"
